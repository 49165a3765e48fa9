"""Whether one run was faster than another, as far as their passes and what is known from run to run can say.

The interval of a comparison has two parts. The passes of a run scatter, which the data show. Two runs of the same
thing also differ, by more than their passes scatter; of one run on either side the data cannot show by how much, so
that part is a number which is measured apart and given: :data:`RUN_TO_RUN_PCT`. docs/measuring.md has how often the
interval holds the truth.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm, t

from ttt_mlflow.measurement.statistics import CONFIDENCE, Values

RUN_TO_RUN_PCT = 0.5  # the medians of two runs of the same thing differ by less in 95 of 100 pairs
RANKS_LEAST = 6  # passes on either side: of fewer, ranks can hardly say anything
TAIL = (1 - CONFIDENCE) / 2
BISECTIONS = 200  # at most: halving an interval of doubles ends long before
Quantity = Literal["rate", "time"]
Word = Literal["faster", "slower", "not significant"]


@dataclass(frozen=True)
class Comparison:
    """The candidate against the baseline, in percent of the baseline's median.

    baseline, candidate: the medians, in the passes' own unit. baseline_passes, candidate_passes: how many.
    change_pct: positive where the candidate's is larger: more throughput, or with ``quantity`` time, longer.
    low_pct, high_pct: its 95 % interval, what two runs differ by included; None where a side has one pass only.
    scatter_low_pct, scatter_high_pct: the same from the scatter of the passes alone.
    run_to_run_pct: what the interval was widened by.
    """

    quantity: Quantity
    baseline: float
    candidate: float
    baseline_passes: int
    candidate_passes: int
    change_pct: float
    low_pct: float | None
    high_pct: float | None
    scatter_low_pct: float | None
    scatter_high_pct: float | None
    run_to_run_pct: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out. Then the change is larger than ``run_to_run_pct`` too."""
        return _leaves_out_zero(self.low_pct, self.high_pct)

    @property
    def word(self) -> Word:
        if not self.significant:
            return "not significant"
        return "faster" if (self.change_pct > 0) == (self.quantity == "rate") else "slower"

    @property
    def reason(self) -> str:
        """Why the word is what it is, in a line."""
        if self.low_pct is None:
            side = "baseline" if self.baseline_passes < 2 else "candidate"
            return f"the {side} has one pass, which says nothing about how passes scatter"
        limit = f"the {self.run_to_run_pct:g} % that two runs of the same thing can differ by"
        if self.significant:
            return f"the change is more than the scatter of the passes and {limit}"
        if _leaves_out_zero(self.scatter_low_pct, self.scatter_high_pct):
            return f"the change is more than the scatter of the passes, but not more than that and {limit}"
        return "the scatter of the passes alone can make such a change"

    def __str__(self) -> str:
        """For example ``faster: +1.3 % [+0.8, +1.8]``."""
        interval = "" if self.low_pct is None else f" [{self.low_pct:+.2f}, {self.high_pct:+.2f}]"
        return f"{self.word}: {self.change_pct:+.2f} %{interval}"


def compare(
    baseline: Values,
    candidate: Values,
    *,
    quantity: Quantity = "rate",
    run_to_run_pct: float = RUN_TO_RUN_PCT,
) -> Comparison:
    """Compare the passes of two runs: rates or, with ``quantity`` time, times, all finite and above 0.

    run_to_run_pct: what the medians of two runs of the same thing stay under in 95 of 100 pairs; 0 for passes that
    were made in turn in one process.
    Raises ValueError for a side without passes and for values that are no rates or times.
    """
    if quantity not in ("rate", "time"):
        raise ValueError(f"quantity={quantity}: rate or time")
    if not (math.isfinite(run_to_run_pct) and run_to_run_pct >= 0):
        raise ValueError(f"run_to_run_pct={run_to_run_pct}: a percentage from 0")
    base, other = _checked("baseline", baseline), _checked("candidate", candidate)
    medians = float(np.median(base)), float(np.median(other))
    change = math.log(medians[1] / medians[0])
    scatter = _shift_interval(np.log(base / medians[0]), np.log(other / medians[0]))
    between = math.log1p(run_to_run_pct / 100)
    if scatter:
        # the shift's interval need not hold the change of the medians, which is what everybody sees
        scatter = min(scatter[0], change), max(scatter[1], change)
        whole = change - math.hypot(change - scatter[0], between), change + math.hypot(scatter[1] - change, between)
    return Comparison(
        quantity,
        *medians,
        len(base),
        len(other),
        _percent(change),
        _percent(whole[0]) if scatter else None,
        _percent(whole[1]) if scatter else None,
        _percent(scatter[0]) if scatter else None,
        _percent(scatter[1]) if scatter else None,
        run_to_run_pct,
    )


def _checked(name: str, values: Values) -> np.ndarray:
    data = np.sort(np.asarray(values, dtype=np.float64))
    if len(data) == 0:
        raise ValueError(f"{name}: no passes")
    if not (data[0] > 0 and math.isfinite(data[-1])):
        raise ValueError(f"{name}: rates and times are finite and above 0, not {data[0]} to {data[-1]}")
    return data


def _shift_interval(base: np.ndarray, other: np.ndarray) -> tuple[float, float] | None:
    """How far ``other`` lies above ``base``, both sorted logarithms: the 95 % interval; None where a side has one."""
    if min(len(base), len(other)) < 2:
        return None
    if min(len(base), len(other)) < RANKS_LEAST:
        return _welch_interval(base, other)
    return _rank_interval(base, other)


def _welch_interval(base: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Student's t for two samples whose scatter may differ (Welch and Satterthwaite's degrees of freedom)."""
    errors = [float(np.var(data, ddof=1)) / len(data) for data in (base, other)]
    shift = float(np.mean(other) - np.mean(base))
    weight = sum(error**2 / (len(data) - 1) for error, data in zip(errors, (base, other), strict=True))
    if weight == 0:  # no scatter, or so little that its square is 0
        return shift, shift
    half_width = float(t.ppf(1 - TAIL, sum(errors) ** 2 / weight)) * math.sqrt(sum(errors))
    return shift - half_width, shift + half_width


def _rank_interval(base: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The shifts that a Mann-Whitney test does not reject: of all differences of a pass of ``other`` and one of
    ``base``, the rank-th smallest and the rank-th largest (Hodges and Lehmann)."""
    rank = _rank(len(base), len(other))
    return _difference(base, other, rank), -_difference(other, base, rank)


def _rank(n: int, m: int) -> int:
    """Which difference ends the interval, by the normal approximation of the Mann-Whitney statistic."""
    return max(1, round(n * m / 2 - float(norm.ppf(1 - TAIL)) * math.sqrt(n * m * (n + m + 1) / 12)))


def _difference(base: np.ndarray, other: np.ndarray, rank: int) -> float:
    """The ``rank``-th smallest of all differences other − base, both sorted; found without making all of them."""
    low, high = other[0] - base[-1], other[-1] - base[0]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        below = int(np.sum(np.searchsorted(other, base + middle, side="right")))
        low, high = (low, middle) if below >= rank else (middle, high)
    return float(high)


def _percent(shift: float) -> float:
    with np.errstate(over="ignore"):  # the upper end of two passes that have nothing in common: infinite
        return 100 * float(np.expm1(shift))


def _leaves_out_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0)

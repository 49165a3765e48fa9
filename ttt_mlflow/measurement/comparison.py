"""Compares the passes of two runs: whether one run was faster than the other.

The confidence interval of a comparison has two parts. The data show the scatter of the passes within a run. Two runs of
the same configuration also differ by more than that scatter. With one run on each side, the data cannot show this
difference, so it is measured separately and given as a number: :data:`RUN_TO_RUN_PCT`. docs/measuring.md has the
coverage of the interval.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm, t

from ttt_mlflow.measurement.statistics import CONFIDENCE, Values

RUN_TO_RUN_PCT = 0.5  # in 95 of 100 pairs, the medians of two runs of the same configuration differ by less
RANKS_LEAST = 6  # passes on each side; with fewer, ranks carry too little information
TAIL = (1 - CONFIDENCE) / 2
BISECTIONS = 200  # upper limit; halving an interval of doubles ends long before
Quantity = Literal["rate", "time"]
Word = Literal["faster", "slower", "not significant"]


@dataclass(frozen=True)
class Comparison:
    """The candidate compared with the baseline, in percent of the baseline's median.

    baseline, candidate: the medians, in the unit of the passes. baseline_passes, candidate_passes: how many there are.
    change_pct: positive if the candidate's median is larger: more throughput or, with ``quantity`` time, a longer time.
    low_pct, high_pct: its 95 % confidence interval, including the difference from run to run; None if a side has only
    one pass. scatter_low_pct, scatter_high_pct: the same from the scatter of the passes alone.
    run_to_run_pct: the difference from run to run that the interval includes.
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
        """Whether the interval excludes 0. The change then also exceeds ``run_to_run_pct``."""
        return _leaves_out_zero(self.low_pct, self.high_pct)

    @property
    def word(self) -> Word:
        if not self.significant:
            return "not significant"
        return "faster" if (self.change_pct > 0) == (self.quantity == "rate") else "slower"

    @property
    def reason(self) -> str:
        """The reason for :meth:`word`, in one line."""
        if self.low_pct is None:
            side = "baseline" if self.baseline_passes < 2 else "candidate"
            return f"the {side} has only one pass, so the scatter of its passes is not known"
        limit = f"the {self.run_to_run_pct:g} % by which two runs of the same configuration can differ"
        if self.significant:
            return f"the change exceeds the scatter of the passes plus {limit}"
        if _leaves_out_zero(self.scatter_low_pct, self.scatter_high_pct):
            return f"the change exceeds the scatter of the passes, but not the scatter plus {limit}"
        return "the change is within the scatter of the passes"

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
    """Compare the passes of two runs. Values are rates or, with ``quantity`` time, times; all are finite and above 0.

    run_to_run_pct: the limit that the difference between the medians of two runs of the same configuration stays under
    in 95 of 100 pairs; 0 for passes that alternate in one process.
    Raises ValueError for a side without passes and for values that are not rates or times.
    """
    if quantity not in ("rate", "time"):
        raise ValueError(f"quantity={quantity}: not allowed; quantity takes rate or time")
    if not (math.isfinite(run_to_run_pct) and run_to_run_pct >= 0):
        raise ValueError(f"run_to_run_pct={run_to_run_pct}: not allowed; it takes a percentage of at least 0")
    base, other = _checked("baseline", baseline), _checked("candidate", candidate)
    medians = float(np.median(base)), float(np.median(other))
    change = math.log(medians[1] / medians[0])
    scatter = _shift_interval(np.log(base / medians[0]), np.log(other / medians[0]))
    between = math.log1p(run_to_run_pct / 100)
    if scatter:
        # the interval of the shift need not contain the change of the medians, which is the number that is shown
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
        raise ValueError(f"{name}: rates and times must be finite and above 0, not {data[0]} to {data[-1]}")
    return data


def _shift_interval(base: np.ndarray, other: np.ndarray) -> tuple[float, float] | None:
    """95 % confidence interval of the shift from ``base`` to ``other``, both sorted logarithms.

    None if a side has only one value.
    """
    if min(len(base), len(other)) < 2:
        return None
    if min(len(base), len(other)) < RANKS_LEAST:
        return _welch_interval(base, other)
    return _rank_interval(base, other)


def _welch_interval(base: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Student's t for two samples with different scatter (degrees of freedom of Welch and Satterthwaite)."""
    errors = [float(np.var(data, ddof=1)) / len(data) for data in (base, other)]
    shift = float(np.mean(other) - np.mean(base))
    weight = sum(error**2 / (len(data) - 1) for error, data in zip(errors, (base, other), strict=True))
    if weight == 0:  # no scatter, or so little that its square underflows to 0
        return shift, shift
    half_width = float(t.ppf(1 - TAIL, sum(errors) ** 2 / weight)) * math.sqrt(sum(errors))
    return shift - half_width, shift + half_width


def _rank_interval(base: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The shifts that a Mann-Whitney test does not reject (Hodges and Lehmann).

    The ends are the rank-th smallest and rank-th largest difference between a pass of ``other`` and one of ``base``.
    """
    rank = _rank(len(base), len(other))
    return _difference(base, other, rank), -_difference(other, base, rank)


def _rank(n: int, m: int) -> int:
    """The rank of the difference that ends the interval, by the normal approximation of the Mann-Whitney statistic."""
    return max(1, round(n * m / 2 - float(norm.ppf(1 - TAIL)) * math.sqrt(n * m * (n + m + 1) / 12)))


def _difference(base: np.ndarray, other: np.ndarray, rank: int) -> float:
    """The ``rank``-th smallest difference other − base, for sorted inputs, found without computing all differences."""
    low, high = other[0] - base[-1], other[-1] - base[0]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        below = int(np.sum(np.searchsorted(other, base + middle, side="right")))
        low, high = (low, middle) if below >= rank else (middle, high)
    return float(high)


def _percent(shift: float) -> float:
    with np.errstate(over="ignore"):  # two passes that differ extremely have an infinite upper end
        return 100 * float(np.expm1(shift))


def _leaves_out_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0)

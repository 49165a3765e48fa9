"""Compares two sides of one or several runs: whether the candidate was faster than the baseline.

Two runs of one configuration differ by more than the scatter of their passes says. The confidence interval therefore
includes the run-to-run variance: that of the repetitions where there are enough, else one that was measured on the same
kind of GPU. Without either, nothing can be told. docs/measuring.md has the method and its measured error rates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ttt_mlflow import names
from ttt_mlflow.measurement.statistics import CONFIDENCE, Values, median_confidence_interval

REPETITIONS_LEAST = 3  # runs on each side; the standard deviation of fewer says too little
LEVEL = 1 - CONFIDENCE
POWER = 0.95  # of smallest_change_pct and runs_needed
CONTRADICTED = 0.01  # the known run-to-run variance is not used where runs scatter as much with less probability
POWER_CAPPED_PCT = 5.0  # a run was at the software power cap if clock_event_sw_power_cap_pct is above this

Quantity = Literal["rate", "time"]
Answer = Literal["faster", "slower", "no significant difference", "cannot tell"]


@dataclass(frozen=True)
class RunToRun:
    """How far the medians of runs of one configuration differ.

    pct: the standard deviation of the logarithm of a run's median, in percent; 0 for passes that alternate in one
    process. source: where it was measured, in one line.
    """

    pct: float
    source: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.pct) and self.pct >= 0):
            raise ValueError(f"run_to_run={self.pct}: not allowed; it takes a percentage of at least 0")


# By the full name that NVML and PyTorch give a GPU, and whether a run was at the software power cap.
# Free: 20 runs of ttt-1b at batch 128 in one process had a standard deviation of 0.08 % (benchmarks/results/
# 2026-11-23-h200, repeatability-2). Runs of commit 597ec48 on two days differed by 0.15 % (decode-4, two_versions-3).
# The constant leaves room for both: medians of two runs then differ by less than 0.5 % in 95 of 100 pairs.
# At the cap: 28 runs of ttt-1b at batch 1024, a process each, within ten minutes: 0.26 % [0.21, 0.36]
# (benchmarks/results/2026-11-28-h200, ab-1). The constant is the upper end, because other days were not measured.
KNOWN_RUN_TO_RUN = {
    ("NVIDIA H200", False): RunToRun(
        0.18, "benchmarks.repeatability on an NVIDIA H200, 2026-11-23: 0.08 % in one process; the rest for other days"
    ),
    ("NVIDIA H200", True): RunToRun(
        0.36, "28 runs at the power cap of an NVIDIA H200, 2026-11-28: 0.26 % [0.21, 0.36], of which the upper end"
    ),
}


def power_capped(metrics: Mapping[str, float]) -> bool:
    """Whether a run with these metrics, by name, was at the software power cap. False where it was not sampled."""
    return metrics.get(names.CLOCK_EVENT_PCT["sw_power_cap"].name, 0.0) > POWER_CAPPED_PCT


def known_run_to_run(gpu_name: str | None, power_capped: bool) -> RunToRun | None:
    """The run-to-run variance that was measured on GPUs of this kind; None for another GPU and for a CPU.

    power_capped: whether a run of the comparison was at the software power cap (:func:`power_capped`), where runs
    repeat worse.
    """
    return None if gpu_name is None else KNOWN_RUN_TO_RUN.get((gpu_name, power_capped))


@dataclass(frozen=True)
class Comparison:
    """The candidate compared with the baseline, in percent of the baseline.

    baseline, candidate: the median of the passes, in their unit; of several runs, the geometric mean of their medians.
    change_pct: positive if the candidate's value is larger: more throughput or, with ``quantity`` time, a longer time.
    low_pct, high_pct: its 95 % confidence interval, run-to-run variance included. p_value: the probability of a change
    at least this large between two sides that do not differ. All three are None where ``missing`` says why.
    run_to_run: the run-to-run variance that the confidence interval includes.
    missing: what stands in the way of an answer, though there are numbers.
    runs_needed: runs a side in all with which a change of ``resolution_pct`` is found in 95 of 100 cases. None: these
    are enough, or it cannot be computed, as where ``missing`` says why.
    smallest_change_pct: the smallest change that this comparison finds in 95 of 100 cases; None with ``missing``.
    """

    quantity: Quantity
    baseline: float
    candidate: float
    baseline_runs: int
    candidate_runs: int
    baseline_passes: int
    candidate_passes: int
    change_pct: float
    low_pct: float | None = None
    high_pct: float | None = None
    p_value: float | None = None
    run_to_run: RunToRun | None = None
    missing: str | None = None
    runs_needed: int | None = None
    smallest_change_pct: float | None = None

    def __str__(self) -> str:
        """For example ``+1.30 % [+0.80, +1.81]``."""
        interval = "" if self.low_pct is None else f" [{self.low_pct:+.2f}, {self.high_pct:+.2f}]"
        return f"{self.change_pct:+.2f} %{interval}"


def compare(
    baseline: Sequence[Values],
    candidate: Sequence[Values],
    *,
    quantity: Quantity = "rate",
    run_to_run: RunToRun | None = None,
    resolution_pct: float = 1.0,
) -> Comparison:
    """Compare two sides. Each is a sequence of runs, and a run is the sequence of its passes.

    Passes are rates or, with ``quantity`` time, times; all are finite and above 0.
    run_to_run: the known run-to-run variance; used where a side has fewer than three runs.
    resolution_pct: the change for which ``runs_needed`` is computed.
    Raises ValueError for a side without runs, a run without passes, and values that are not rates or times.
    """
    if quantity not in ("rate", "time"):
        raise ValueError(f"quantity={quantity}: not allowed; quantity takes rate or time")
    if not (math.isfinite(resolution_pct) and resolution_pct > 0):
        raise ValueError(f"resolution_pct={resolution_pct}: not allowed; it takes a percentage above 0")
    base, other = _Side("baseline", baseline), _Side("candidate", candidate)
    change = other.mean - base.mean
    numbers = (quantity, base.value, other.value, base.runs, other.runs, base.passes, other.passes)
    if min(base.runs, other.runs) < REPETITIONS_LEAST:
        missing = _why_missing(base, other, run_to_run)
        if missing or run_to_run is None:
            return Comparison(*numbers, _percent(change), missing=missing)
        found, used = _by_known(change, base, other, run_to_run.pct / 100), run_to_run
    else:
        found, used = _by_repetitions(change, base, other)
    smallest = _percent(found.smallest)
    needed = None
    if smallest > resolution_pct:
        needed = found.runs_needed(math.log1p(resolution_pct / 100), more_than=min(base.runs, other.runs))
    return Comparison(
        *numbers,
        _percent(change),
        _percent(change - found.below),
        _percent(change + found.above),
        found.p_value,
        used,
        runs_needed=needed,
        smallest_change_pct=smallest,
    )


def answers(comparisons: Sequence[Comparison], resolution_pct: float) -> list[Answer]:
    """The answer of each comparison, corrected for their number (Holm). One comparison is the plain test.

    A significant change is faster or slower. A change that is not is "cannot tell" where the confidence interval is
    wider than ± ``resolution_pct`` or missing: a change of that size could be there.
    """
    significant = _holm([comparison.p_value for comparison in comparisons])
    return [_answer(*pair, resolution_pct) for pair in zip(comparisons, significant, strict=True)]


def _answer(comparison: Comparison, significant: bool, resolution_pct: float) -> Answer:
    if significant:
        return "faster" if (comparison.change_pct > 0) == (comparison.quantity == "rate") else "slower"
    if comparison.low_pct is None or comparison.high_pct is None or comparison.low_pct <= -100:
        return "cannot tell"
    # on the log scale, so that the answer does not depend on which side is the baseline
    half_width = (math.log1p(comparison.high_pct / 100) - math.log1p(comparison.low_pct / 100)) / 2
    return "cannot tell" if half_width > math.log1p(resolution_pct / 100) else "no significant difference"


def _holm(p_values: Sequence[float | None]) -> list[bool]:
    """Which tests are significant at a family-wise level of 5 %. None: not tested, so not counted."""
    tested = sorted((p_value, place) for place, p_value in enumerate(p_values) if p_value is not None)
    significant = [False] * len(p_values)
    for rank, (p_value, place) in enumerate(tested):
        if (len(tested) - rank) * p_value > LEVEL:
            break
        significant[place] = True
    return significant


class _Side:
    """The runs of a side: the logarithms of their medians, and the scatter of the passes of each.

    value: the median of one run, or the geometric mean of the medians of several.
    """

    def __init__(self, name: str, runs: Sequence[Values]) -> None:
        if len(runs) == 0:
            raise ValueError(f"{name}: no runs")
        self.data = [_checked(name, run) for run in runs]
        self.name, self.runs, self.passes = name, len(runs), sum(len(passes) for passes in self.data)
        self.medians = [float(np.median(passes)) for passes in self.data]
        logs = np.log(self.medians)
        self.mean = float(np.mean(logs))
        self.squares = float(np.sum((logs - self.mean) ** 2))
        self.value = self.medians[0] if self.runs == 1 else math.exp(self.mean)

    @property
    def scatter_known(self) -> bool:
        return min(len(passes) for passes in self.data) > 1

    @cached_property
    def ends(self) -> np.ndarray:
        """How far the 95 % confidence interval of each run's median reaches down and up, on the log scale."""
        found = [
            (low / median, high / median)
            for median, passes in zip(self.medians, self.data, strict=True)
            for low, high in [median_confidence_interval(passes, resample=False) or (0.0, math.inf)]
        ]
        with np.errstate(divide="ignore"):  # the lower end of two passes that differ extremely is 0
            return np.abs(np.log(np.array(found))).T

    @property
    def below(self) -> float:
        """How far the confidence interval of :attr:`mean` reaches down by the scatter of the passes alone."""
        return float(np.linalg.norm(self.ends[0])) / self.runs

    @property
    def above(self) -> float:
        return float(np.linalg.norm(self.ends[1])) / self.runs

    @property
    def pass_variance(self) -> float:
        """The variance of a run's median by the scatter of its passes, the mean of the runs."""
        return float(np.mean((np.mean(self.ends, axis=0) / _normal(CONFIDENCE)) ** 2))


@dataclass(frozen=True)
class _Found:
    """What was found, on the log scale. below, above: how far the confidence interval reaches from the change.

    variance: that of one run, for the number of runs needed. freedom: its degrees of freedom; inf: it is known.
    """

    below: float
    above: float
    p_value: float
    smallest: float
    variance: float
    freedom: float

    def runs_needed(self, resolution: float, more_than: int) -> int | None:
        """Runs a side with which a change of ``resolution`` is found in 95 of 100 cases; None if it is infinite."""
        least = 2 * self.variance / resolution**2
        if not math.isfinite(least):
            return None
        needed = max(math.ceil(least * self._errors(math.inf) ** 2), more_than + 1)
        if needed < REPETITIONS_LEAST:
            return needed
        # from three runs a side on, their own variance is used: Student's t, whose quantiles depend on their number
        while least * self._errors(2 * needed - 2) ** 2 > needed:
            needed += 1
        return needed

    def _errors(self, freedom: float) -> float:
        """How many of today's standard errors a change must have to be found by a later test with ``freedom``.

        Today's standard error is itself an estimate. The ratio of a normal variable to it has a noncentral t
        distribution.
        """
        from scipy.special import nctdtrit

        if math.isinf(self.freedom):
            return _quantiles(freedom)
        return float(nctdtrit(self.freedom, _student(freedom, CONFIDENCE), POWER))


def _by_repetitions(change: float, base: _Side, other: _Side) -> tuple[_Found, RunToRun]:
    """Student's t of the logarithms of the runs' medians, their variance pooled over both sides."""
    freedom = base.runs + other.runs - 2
    variance = (base.squares + other.squares) / freedom
    error = math.sqrt(variance * (1 / base.runs + 1 / other.runs))
    half_width = _student(freedom, CONFIDENCE) * error
    p_value = _p_value(change, error, freedom)
    found = _Found(half_width, half_width, p_value, _quantiles(freedom) * error, variance, freedom)
    source = f"the {base.runs} and {other.runs} runs of this comparison"
    return found, RunToRun(100 * math.sqrt(variance), source)


def _by_known(change: float, base: _Side, other: _Side, deviation: float) -> _Found:
    """The known run-to-run standard deviation, combined with the confidence interval of each run's median.

    Half-widths are combined as the root of the sum of their squares, each side of the change by itself: a single slow
    pass stretches the interval to one side only (Zou and Donner, Statistics in Medicine 27, 2008).
    """
    between = _normal(CONFIDENCE) * deviation * math.sqrt(1 / base.runs + 1 / other.runs)
    below = math.hypot(between, other.below, base.above)
    above = math.hypot(between, other.above, base.below)
    toward_zero = below if change > 0 else above
    p_value = _p_value(change, toward_zero / _normal(CONFIDENCE), math.inf)
    smallest = _quantiles(math.inf) * (below + above) / 2 / _normal(CONFIDENCE)
    variance = deviation**2 + (base.pass_variance + other.pass_variance) / 2
    return _Found(below, above, p_value, smallest, variance, math.inf)


def _why_missing(base: _Side, other: _Side, run_to_run: RunToRun | None) -> str | None:
    """Why nothing can be told with fewer than three runs on a side; None if it can."""
    sides = [side for side in (base, other) if side.runs < REPETITIONS_LEAST]
    few = " and ".join(f"the {side.name} has {side.runs}" for side in sides)
    needed = f"{REPETITIONS_LEAST} runs a side are needed"
    if run_to_run is None:
        return f"{needed} where the run-to-run variance was not measured; {few}"
    for side in (base, other):
        if not side.scatter_known:
            return f"{needed}, since a run of the {side.name} has only one pass, whose scatter is not known; {few}"
    freedom = base.runs + other.runs - 2
    expected = (run_to_run.pct / 100) ** 2 + max(base.pass_variance, other.pass_variance)
    if freedom and base.squares + other.squares > _chi_square(freedom) * expected:
        seen = 100 * math.sqrt((base.squares + other.squares) / freedom)
        return (
            f"{needed}, since these runs repeat worse than is known of this GPU ({seen:.2f} % and {run_to_run.pct:g} "
            f"%); {few}"
        )
    return None


def _checked(name: str, values: Values) -> np.ndarray:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1:
        raise ValueError(f"{name}: a side is a sequence of runs, and a run is a sequence of passes")
    if len(data) == 0:
        raise ValueError(f"{name}: no passes")
    low, high = float(np.min(data)), float(np.max(data))
    if not (low > 0 and math.isfinite(high)):
        raise ValueError(f"{name}: rates and times must be finite and above 0, not {low} to {high}")
    return data


# Distributions. scipy is imported when a comparison is made: most commands make none


def _normal(confidence: float) -> float:
    """How many standard errors to each side hold a normal variable with this probability."""
    from scipy.special import ndtri

    return float(ndtri((1 + confidence) / 2))


def _student(freedom: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return _normal(confidence) if math.isinf(freedom) else float(stdtrit(freedom, (1 + confidence) / 2))


def _quantiles(freedom: float) -> float:
    """How many standard errors a change must have to be found with a probability of POWER."""
    return _student(freedom, CONFIDENCE) + _student(freedom, 2 * POWER - 1)


def _chi_square(freedom: float) -> float:
    from scipy.special import chdtri

    return float(chdtri(freedom, CONTRADICTED))


def _p_value(change: float, error: float, freedom: float) -> float:
    """Two-sided."""
    from scipy.special import ndtr, stdtr

    if error == 0:
        return 1.0 if change == 0 else 0.0
    score = -abs(change) / error
    return 2 * float(ndtr(score) if math.isinf(freedom) else stdtr(freedom, score))


def _percent(shift: float) -> float:
    with np.errstate(over="ignore"):  # two passes that differ extremely have an infinite upper end
        return 100 * float(np.expm1(shift))

"""Drift of a run: compares its first third with its last third.

There are two tests, because a drift can extend over the whole measurement or start again with every pass. Both compare
equal work: whole passes, or whole periods of a pass. A period is the number of steps after which a model's costs
repeat. For example, one step of each period may cost more than the others. The tests use means of logarithms. A p-value
states how often noise alone would cause such a difference. The percentage states whether the difference matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

FALSE_ALARM_RATE = 0.05  # of both tests together, for a run without drift
ACROSS_LEAST = 2  # passes
NOISE_LEAST = 4  # passes: one for each third, and one more to estimate the noise
WITHIN_LEAST = 3  # passes
THIRD_LEAST = 16  # steps in a third of a pass; in fewer, the first step after the prompt would weigh too much
ROUNDING = 1e-12  # logarithms that differ by less count as equal


@dataclass(frozen=True)
class Drift:
    """pct: how much longer the last third took than the first, in percent; negative if it was faster.
    p_value: probability of a difference at least as large without drift; None where too few passes tell the noise."""

    pct: float
    p_value: float | None

    @property
    def found(self) -> bool:
        """Whether the difference exceeds noise. Each of the two tests uses half of FALSE_ALARM_RATE."""
        return self.p_value is not None and self.p_value < FALSE_ALARM_RATE / 2


def drift_across(total_ms: Sequence[float]) -> Drift | None:
    """Drift of a run: the passes of its first third compared with those of its last. None for fewer than ACROSS_LEAST.

    The method is Student's t for the contrast between the first and the last of three groups. The noise is the scatter
    within all three groups. The test is exact for passes that are independent and lognormal. A steady drift also adds
    scatter within the thirds, so with fewer than six passes only a jump can be found. With fewer than NOISE_LEAST, the
    first pass is compared with the last, and nothing tells the noise.
    """
    count = len(total_ms)
    if count < ACROSS_LEAST:
        return None
    logs, third = np.log(total_ms), max(1, count // 3)
    if count < NOISE_LEAST:
        return Drift(100 * float(np.expm1(logs[-1] - logs[0])), None)
    thirds = logs[:third], logs[third : count - third], logs[count - third :]
    squares = sum(float(np.sum((group - np.mean(group)) ** 2)) for group in thirds)
    freedom = count - len(thirds)
    return _drift(float(np.mean(thirds[2]) - np.mean(thirds[0])), np.sqrt(squares / freedom * 2 / third), freedom)


def drift_within(passes_ms: Sequence[np.ndarray], period: int) -> Drift | None:
    """Drift within the passes: the steps of a pass's first third compared with those of its last, in whole periods.

    passes_ms: the step times of each complete pass, all of equal length. period: steps after which the costs repeat.
    None for fewer than WITHIN_LEAST passes, or if the whole periods of a third have fewer than THIRD_LEAST steps.
    The method is Student's t for the differences, one per pass. What all steps of a pass have in common cancels out.
    """
    third = len(passes_ms[0]) // 3 // period * period if len(passes_ms) >= WITHIN_LEAST else 0
    if third < THIRD_LEAST:
        return None
    differences = [float(np.log(np.mean(ms[-third:]) / np.mean(ms[:third]))) for ms in passes_ms]
    count = len(differences)
    return _drift(float(np.mean(differences)), float(np.std(differences, ddof=1)) / np.sqrt(count), count - 1)


def _drift(difference: float, error: float, freedom: int) -> Drift:
    """``difference``: of logarithms. ``error``: its standard error. ``freedom``: its degrees of freedom."""
    if error < ROUNDING:  # the passes have no scatter, so any difference is real
        p_value = 0.0 if abs(difference) > ROUNDING else 1.0
    else:
        p_value = float(2 * t.sf(abs(difference) / error, freedom))
    return Drift(100 * float(np.expm1(difference)), p_value)

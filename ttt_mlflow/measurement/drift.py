"""Whether a run was the same machine from its beginning to its end: its first third against its last.

Two tests, because a drift can run through the whole measurement or begin anew with every pass. Both compare like with
like: whole passes, or whole periods of a pass. A period is the number of steps after which a model's costs repeat: one
step in so many may cost more than the others. What is tested is the mean of the logarithms; a test says how often noise
alone would show as much, and nothing about whether it matters: the percentage does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

FALSE_ALARM_RATE = 0.05  # of the two tests together, on a run without drift
ACROSS_LEAST = 4  # passes: three thirds, and one more to know the noise by
WITHIN_LEAST = 3  # passes
THIRD_LEAST = 16  # steps of a pass's third: of fewer, the first after a prompt would be too large a part
ROUNDING = 1e-12  # logarithms that differ by less are equal


@dataclass(frozen=True)
class Drift:
    """pct: how much longer the last third took than the first, in percent (negative: faster).
    p_value: how often passes that only scatter would show a difference as large."""

    pct: float
    p_value: float

    @property
    def found(self) -> bool:
        """Whether the difference is more than noise, each of the two tests having half of FALSE_ALARM_RATE."""
        return self.p_value < FALSE_ALARM_RATE / 2


def drift_across(total_ms: Sequence[float]) -> Drift | None:
    """Of a run: the passes of its first third against those of its last; None for fewer than ACROSS_LEAST.

    The contrast of the first and the last of three groups, by Student's t, with the scatter inside all three as the
    noise: exact for passes that are independent and lognormal. A drift that is steady also scatters the passes of a
    third, so that of fewer than six passes only a jump can be found.
    """
    count = len(total_ms)
    if count < ACROSS_LEAST:
        return None
    logs, third = np.log(total_ms), count // 3
    thirds = logs[:third], logs[third : count - third], logs[count - third :]
    squares = sum(float(np.sum((group - np.mean(group)) ** 2)) for group in thirds)
    freedom = count - len(thirds)
    return _drift(float(np.mean(thirds[2]) - np.mean(thirds[0])), np.sqrt(squares / freedom * 2 / third), freedom)


def drift_within(passes_ms: Sequence[np.ndarray], period: int) -> Drift | None:
    """Of the passes: the steps of a pass's first third against those of its last, whole periods only.

    passes_ms: the step times of each complete pass, of equal length. period: steps after which the costs repeat. None
    for fewer than WITHIN_LEAST passes, or where the whole periods of a third are fewer than THIRD_LEAST steps.
    Student's t of the passes' differences, one a pass: what the steps of
    a pass have in common does not enter.
    """
    third = len(passes_ms[0]) // 3 // period * period if len(passes_ms) >= WITHIN_LEAST else 0
    if third < THIRD_LEAST:
        return None
    differences = [float(np.log(np.mean(ms[-third:]) / np.mean(ms[:third]))) for ms in passes_ms]
    count = len(differences)
    return _drift(float(np.mean(differences)), float(np.std(differences, ddof=1)) / np.sqrt(count), count - 1)


def _drift(difference: float, error: float, freedom: int) -> Drift:
    """From a difference of logarithms, its standard error and the degrees of freedom of that."""
    if error < ROUNDING:  # passes that do not scatter at all: any difference is one
        p_value = 0.0 if abs(difference) > ROUNDING else 1.0
    else:
        p_value = float(2 * t.sf(abs(difference) / error, freedom))
    return Drift(100 * float(np.expm1(difference)), p_value)

"""Decides when a warm-up has settled: pass times and clocks no longer change."""

from collections.abc import Sequence

import numpy as np

WINDOW = 3  # passes that are compared
TIMES_PCT = 1.0  # passes that agree within this percentage have settled
CLOCK_SAMPLES_LEAST = 8  # samples of the SM clock that a comparison needs
# Time span of the samples, even if the passes are shorter: a GPU that reaches its power cap lowers its clock over
# seconds. Half a second was too short for a prefill on an H200, whose passes then slowed down by 2.6 %.
CLOCK_SECONDS_LEAST = 2.0
CLOCK_PCT = 2.0  # for means of many samples, because under the power cap the clock changes all the time


def times_settled(total_ms: Sequence[float]) -> bool:
    """Whether the last WINDOW passes agree within TIMES_PCT.

    If they scatter more, their median must agree with the median of the WINDOW passes before, within the scatter. The
    comparison uses logarithms. Passes that still change by a constant factor then never agree: the medians differ by
    three such factors, while the scatter of three passes explains little more than one.
    """
    logs = np.log(total_ms[-2 * WINDOW :])
    before, last = logs[:-WINDOW], logs[-WINDOW:]
    if len(last) < WINDOW:
        return False
    if np.max(last) - np.min(last) <= np.log1p(TIMES_PCT / 100):
        return True
    open_question = max(np.log1p(TIMES_PCT / 100), 2 * np.std(last, ddof=1) / WINDOW**0.5)
    return len(before) == WINDOW and bool(abs(np.median(last) - np.median(before)) <= open_question)


def clocks_settled(mhz: Sequence[float]) -> bool:
    """Whether the means of the earlier and the later half of the samples agree within CLOCK_PCT. False for too few."""
    if len(mhz) < CLOCK_SAMPLES_LEAST:
        return False
    half = len(mhz) // 2
    earlier, later = float(np.mean(mhz[:half])), float(np.mean(mhz[half:]))
    return abs(later - earlier) <= CLOCK_PCT / 100 * earlier

"""When a warm-up has done its work: the passes take the same time, and the clocks stand."""

from collections.abc import Sequence

import numpy as np

WINDOW = 3  # passes that are looked at together
TIMES_PCT = 1.0  # passes that agree within this have settled
CLOCK_SAMPLES_LEAST = 8  # of the SM clock, before they say anything
CLOCK_SECONDS_LEAST = 0.5  # to look back for them, however short the passes
CLOCK_PCT = 2.0  # under the power cap the clock moves all the time; the means of many samples stand


def times_settled(total_ms: Sequence[float]) -> bool:
    """Whether the last passes agree: all of the last WINDOW within TIMES_PCT; or, of passes that scatter more, their
    median with that of the WINDOW before, as far as the scatter lets one say.

    In logarithms, so that passes that still change by a constant factor never agree: the medians differ by three such
    factors, and the scatter of three passes explains little more than one.
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
    """Whether the later half of the samples has the mean of the earlier half, within CLOCK_PCT; never of too few."""
    if len(mhz) < CLOCK_SAMPLES_LEAST:
        return False
    half = len(mhz) // 2
    earlier, later = float(np.mean(mhz[:half])), float(np.mean(mhz[half:]))
    return abs(later - earlier) <= CLOCK_PCT / 100 * earlier

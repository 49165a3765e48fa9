"""Compares two sides of pairs: both measured on the same GPU, so that the differences between GPUs cancel."""

import math
from collections.abc import Sequence

import numpy as np

from ttt_mlflow.measurement.comparison import POWER, REPETITIONS_LEAST, Comparison, Quantity, RunToRun
from ttt_mlflow.measurement.statistics import CONFIDENCE, Values


def compare_pairs(pairs: Sequence[tuple[Values, Values]], *, quantity: Quantity = "rate") -> Comparison:
    """Compare the candidate of each pair with its baseline. Each is the sequence of the passes of one run.

    Student's t of the differences of the logarithms of the medians, one for each pair, which are independent. Fewer
    than three pairs give no answer. Raises ValueError without pairs, for a run without passes, and for values that are
    not finite and above 0.
    """
    if not pairs:
        raise ValueError("no pairs to compare")
    logs = np.array([[_log_median(run) for run in pair] for pair in pairs])
    differences = logs[:, 1] - logs[:, 0]
    count, change = len(pairs), float(np.mean(differences))
    baseline, candidate = (float(math.exp(mean)) for mean in np.mean(logs, axis=0))
    baseline_passes, candidate_passes = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    numbers = (baseline, candidate, count, count, baseline_passes, candidate_passes)
    if count < REPETITIONS_LEAST:
        missing = f"{REPETITIONS_LEAST} pairs of runs are needed; there {'is' if count == 1 else 'are'} {count}"
        return Comparison(quantity, *numbers, change_pct=_percent(change), missing=missing)
    deviation = float(np.std(differences, ddof=1))
    error, freedom = deviation / math.sqrt(count), count - 1
    reach = _student(freedom, CONFIDENCE) * error
    return Comparison(
        quantity,
        *numbers,
        change_pct=_percent(change),
        low_pct=_percent(change - reach),
        high_pct=_percent(change + reach),
        p_value=_p_value(change, error, freedom),
        run_to_run=RunToRun(100 * deviation, f"of the differences of the {count} pairs of this comparison"),
        smallest_change_pct=_percent(reach + _student(freedom, 2 * POWER - 1) * error),
    )


def _log_median(run: Values) -> float:
    data = np.asarray(run, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise ValueError("a run is a sequence of passes, at least one")
    if not (np.min(data) > 0 and math.isfinite(np.max(data))):
        raise ValueError("rates and times must be finite and above 0")
    return float(np.log(np.median(data)))


def _student(freedom: int, confidence: float) -> float:
    from scipy.special import stdtrit  # imported when a comparison is made

    return float(stdtrit(freedom, (1 + confidence) / 2))


def _p_value(change: float, error: float, freedom: int) -> float:
    """Two-sided."""
    from scipy.special import stdtr

    if error == 0:
        return 1.0 if change == 0 else 0.0
    return 2 * float(stdtr(freedom, -abs(change) / error))


def _percent(shift: float) -> float:
    return 100 * math.expm1(shift)

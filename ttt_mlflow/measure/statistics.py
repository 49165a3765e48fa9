"""What a set of repeats says: the median, its interval, the percentiles of the steps."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

Values = Sequence[float] | np.ndarray

RESAMPLES = 9999
SEED = 0  # of the bootstrap: the same values always give the same interval
BATCH_VALUES = 1_000_000  # values resampled at a time, which bounds the memory


def median_interval(values: Values, confidence: float = 0.95) -> tuple[float, float] | None:
    """The interval of the median of ``values``: percentile bootstrap, deterministic.

    None for fewer than two values. The interval holds the median and stays within the values; equal values give
    an interval of no width.
    """
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return None
    interval = bootstrap(
        (data,),
        np.median,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_VALUES // len(data)),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    # interpolation between equal values can round to a neighbour of theirs
    low, median, high = np.min(data), np.median(data), np.max(data)
    return float(np.clip(interval.low, low, median)), float(np.clip(interval.high, median, high))


def relative_half_width_pct(values: Values) -> float | None:
    """Half the width of the median's 95 % interval, in percent of the median; None without an interval."""
    interval = median_interval(values)
    if interval is None:
        return None
    low, high = interval
    return 50.0 * (high - low) / float(np.median(values))


def relative_spread_pct(values: Values) -> float | None:
    """The standard deviation of the repeats in percent of their median; None for fewer than two."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return None
    return float(100.0 * np.std(data, ddof=1) / np.median(data))


def with_interval(name: str, values: Values) -> dict[str, float]:
    """``name`` (the median), ``name_ci_low`` and ``name_ci_high``; absent where they cannot be known."""
    if len(values) == 0:
        return {}
    metrics = {name: float(np.median(values))}
    interval = median_interval(values)
    if interval is not None:
        metrics[f"{name}_ci_low"], metrics[f"{name}_ci_high"] = interval
    return metrics


def percentiles(step_ms: Values) -> dict[str, float]:
    """``decode_step_ms_p50``, ``_p90``, ``_p99`` and ``_mean`` of the step times; empty without steps."""
    if len(step_ms) == 0:
        return {}
    p50, p90, p99 = np.percentile(step_ms, [50, 90, 99])
    return {
        "decode_step_ms_p50": float(p50),
        "decode_step_ms_p90": float(p90),
        "decode_step_ms_p99": float(p99),
        "decode_step_ms_mean": float(np.mean(step_ms)),
    }

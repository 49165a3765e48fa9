"""Statistics of passes and steps: the median, its confidence interval, percentiles of the step times.

The method for the interval depends on the number of values. docs/measuring.md has the measured coverage of each method.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import binom, bootstrap, t

from ttt_mlflow import names
from ttt_mlflow.names import Metrics, Throughput

Values = Sequence[float] | np.ndarray

CONFIDENCE = 0.95
ORDER_LEAST = 6  # values; with fewer, even the smallest and the largest enclose the median too rarely
BOOTSTRAP_LEAST = 50  # values; with fewer, the bootstrap's ends jump between values, and so does its coverage
RESAMPLES = 9999
SEED = 0  # of the bootstrap, so that equal values give equal intervals
BATCH_VALUES = 1_000_000  # values resampled at a time, to limit the memory


def median_confidence_interval(values: Values, *, resample: bool = True) -> tuple[float, float] | None:
    """The 95 % confidence interval of the median of ``values`` (above 0, independent of each other). Deterministic.

    None for fewer than two values. 2 to 5 values: Student's t of the logarithms, which assumes nearly normal logarithms
    and can extend beyond the values. 6 to 49: interpolated order statistics, for any continuous distribution. From 50:
    percentile bootstrap or, without ``resample``, order statistics, which take no time. The interval contains the
    sample median. For equal values its width is 0.
    """
    data = np.sort(np.asarray(values, dtype=np.float64))
    if len(data) < 2:
        return None
    if not data[0] > 0:
        raise ValueError(f"times and rates must be above 0, not {data[0]}")
    if len(data) < ORDER_LEAST:
        low, high = _t_interval(data)
    elif len(data) < BOOTSTRAP_LEAST or not resample:
        low, high = _order_interval(data)
    else:
        low, high = _bootstrap_interval(data)
    # rounding can move an end beyond the median
    median = float(np.median(data))
    return min(low, median), max(high, median)


def relative_half_width_pct(values: Values) -> float | None:
    """Half the width of the median's 95 % confidence interval, in percent of the median; None without an interval."""
    interval = median_confidence_interval(values)
    if interval is None:
        return None
    low, high = interval
    return 50.0 * (high - low) / float(np.median(values))


def relative_spread_pct(values: Values) -> float | None:
    """Coefficient of variation: the standard deviation in percent of the median; None for fewer than two values."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return None
    return float(100.0 * np.std(data, ddof=1) / np.median(data))


def with_confidence_interval(metric: Throughput, values: Values) -> Metrics:
    """``metric`` (the median) and both ends of its confidence interval. A value that cannot be computed is absent."""
    if len(values) == 0:
        return {}
    metrics: Metrics = {metric: float(np.median(values))}
    interval = median_confidence_interval(values)
    if interval is not None:
        metrics[metric.ci_low], metrics[metric.ci_high] = interval
    return metrics


def step_percentiles(step_ms: Values) -> Metrics:
    """Percentiles and mean of the times of decode steps, in ms; empty without steps."""
    if len(step_ms) == 0:
        return {}
    p50, p90, p99 = np.percentile(step_ms, [50, 90, 99])
    return {
        names.DECODE_STEP_MS_P50: float(p50),
        names.DECODE_STEP_MS_P90: float(p90),
        names.DECODE_STEP_MS_P99: float(p99),
        names.DECODE_STEP_MS_MEAN: float(np.mean(step_ms)),
    }


def _t_interval(data: np.ndarray) -> tuple[float, float]:
    """Student's t of the logarithms.

    For 2 to 5 values, the interval always contains their median, because the median is never further from the mean than
    the standard deviation.
    """
    count, median = len(data), float(np.median(data))
    logs = np.log(data / median)
    half_width = t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(logs, ddof=1) / np.sqrt(count)
    mean = np.mean(logs)
    return median * float(np.exp(mean - half_width)), median * float(np.exp(mean + half_width))


def _order_interval(data: np.ndarray) -> tuple[float, float]:
    """Interpolated order statistics: an interval between two pairs of the sorted values."""
    k, weight = _enclosing_pair(len(data))
    low = data[k - 1] + weight * (data[k] - data[k - 1])
    high = data[-k] - weight * (data[-k] - data[-k - 1])
    return float(low), float(high)


@cache
def _enclosing_pair(n: int) -> tuple[int, float]:
    """k, and how far to interpolate from the k-th smallest and largest of ``n`` values to the next pair inside.

    Each pair encloses the median with probability 1 − 2 P(Binomial(n, ½) < k). The interpolation between two pairs is
    that of Hettmansperger and Sheather (Statistics & Probability Letters 4, 1986).
    """
    k = int(binom.ppf((1 - CONFIDENCE) / 2, n, 0.5))  # the innermost pair with sufficient probability
    outer, inner = (1 - 2 * float(binom.cdf(below, n, 0.5)) for below in (k - 1, k))
    excess = (outer - CONFIDENCE) / (outer - inner)
    return k, (n - k) * excess / (k + (n - 2 * k) * excess)


def _bootstrap_interval(data: np.ndarray) -> tuple[float, float]:
    interval = bootstrap(
        (data,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_VALUES // len(data)),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    # interpolation between equal values can round to a neighboring number
    return max(float(interval.low), float(data[0])), min(float(interval.high), float(data[-1]))

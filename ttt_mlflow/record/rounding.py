"""Rounds metrics, once, when they are written to a record. Raw passes, steps and samples are not rounded."""

import math

from ttt_mlflow.names import Estimate, Metric, Metrics

DIGITS = 6  # significant digits of a value without a confidence interval
DIGITS_BEYOND = 2  # decimal places below the first digit of the interval's half-width
EXACT_UNITS = ("count", "bytes", "FLOP")


def rounded(metrics: Metrics) -> Metrics:
    """``metrics`` with fewer digits. Counts, bytes and operations are exact and stay as they are.

    A throughput that comes with its confidence interval keeps two digits beyond the first one of the interval's
    half-width, and the interval's ends keep as many: 131,748.02 ± 320.1 becomes 131,748. Each of them keeps three
    significant digits at least, however wide the interval. All others keep six significant digits.
    """
    digits = {one: place for metric in metrics for one, place in _places(metrics, metric).items()}
    return {
        metric: round(value, digits[metric]) if metric in digits else shortened(metric, value)
        for metric, value in metrics.items()
    }


def shortened(metric: Metric, value: float) -> float:
    """``value`` with six significant digits, unless the unit of ``metric`` is exact."""
    return value if metric.unit in EXACT_UNITS else float(f"{value:.{DIGITS}g}")


def _places(metrics: Metrics, metric: Metric) -> dict[Metric, int]:
    """The decimal places of a throughput and both ends; empty for others, and for an interval without a width."""
    if not isinstance(metric, Estimate) or not {metric.ci_low, metric.ci_high} <= set(metrics):
        return {}
    group = (metric, metric.ci_low, metric.ci_high)
    return dict(zip(group, recorded_places(*(metrics[one] for one in group)) or (), strict=False))


def recorded_places(value: float, low: float, high: float) -> tuple[int, int, int] | None:
    """The decimal places of a value and of the ends of its interval; None without a width, where the rule is another's.

    The rounded numbers have the same as those that were rounded, but for a half-width beside a power of ten.
    """
    half_width = (high - low) / 2
    if not (half_width > 0 and math.isfinite(half_width)):
        return None
    place = _place_of(half_width)
    first, second, third = (max(place, _place_of(one)) if one else place for one in (value, low, high))
    return first, second, third


def _place_of(value: float) -> int:
    """The decimal place that is DIGITS_BEYOND digits beyond the first one of ``value``."""
    return DIGITS_BEYOND - math.floor(math.log10(abs(value)))

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tests.catalog import by_name
from ttt_mlflow.measurement.statistics import (
    BOOTSTRAP_LEAST,
    ORDER_LEAST,
    median_confidence_interval,
    relative_half_width_pct,
    relative_spread_pct,
    step_percentiles,
    with_confidence_interval,
)
from ttt_mlflow.names import Throughput

positive = st.floats(min_value=1e-3, max_value=1e9)
samples = st.lists(positive, min_size=2, max_size=60)
few_examples = settings(max_examples=40)  # an example can be a whole bootstrap


@few_examples
@given(samples)
def test_interval_holds_the_median(values: list[float]) -> None:
    interval = median_confidence_interval(values)
    assert interval is not None
    low, high = interval
    assert 0 < low <= np.median(values) <= high < np.inf


@few_examples
@given(st.lists(positive, min_size=ORDER_LEAST, max_size=60))
def test_interval_of_enough_values_stays_within_them(values: list[float]) -> None:
    interval = median_confidence_interval(values)
    assert interval is not None
    assert min(values) <= interval[0] <= interval[1] <= max(values)


@few_examples
@given(samples, st.randoms(use_true_random=False))
def test_interval_does_not_depend_on_the_order(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert median_confidence_interval(shuffled) == median_confidence_interval(values)


@few_examples
@given(samples)
def test_interval_is_deterministic(values: list[float]) -> None:
    assert median_confidence_interval(values) == median_confidence_interval(values)


@few_examples
@given(samples, st.integers(-8, 8).map(lambda power: 2.0**power))
def test_interval_scales_with_the_values(values: list[float], factor: float) -> None:
    interval = median_confidence_interval(values)
    scaled = median_confidence_interval([factor * value for value in values])
    assert interval is not None
    assert scaled == pytest.approx((factor * interval[0], factor * interval[1]), rel=1e-12)


@few_examples
@given(positive, st.integers(2, 60))
def test_equal_values_give_an_interval_of_no_width(value: float, count: int) -> None:
    assert median_confidence_interval([value] * count) == (value, value)
    assert relative_half_width_pct([value] * count) == 0
    assert relative_spread_pct([value] * count) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert median_confidence_interval(values) is None
    assert relative_half_width_pct(values) is None
    assert relative_spread_pct(values) is None


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_what_is_no_time_or_rate_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="times and rates must be above 0"):
        median_confidence_interval([value] * 3)


def test_interval_of_a_few_values_is_students() -> None:
    """Of 1/r, 1, r: the mean of the logarithms is 0, their standard deviation log r; t(0.975, 2) = 4.3027."""
    interval = median_confidence_interval([1 / 1.01, 1, 1.01])
    reach = 4.302653 * np.log(1.01) / np.sqrt(3)
    assert interval == pytest.approx((np.exp(-reach), np.exp(reach)), rel=1e-6)


def test_interval_of_six_values_is_nearly_that_of_the_extremes() -> None:
    """These enclose the median with 31/32, the pair inside with 25/32; at 0.95 the weight of the inside is 0.0909…"""
    excess = (31 / 32 - 0.95) / (6 / 32)
    weight = 5 * excess / (1 + 4 * excess)
    assert median_confidence_interval([1, 2, 3, 4, 5, 6]) == pytest.approx((1 + weight, 6 - weight))


def lognormal(rng: np.random.Generator, count: int) -> np.ndarray:
    """Skewed times with the median 1."""
    return np.exp(rng.normal(0, 0.5, count))


def exponential(rng: np.random.Generator, count: int) -> np.ndarray:
    """Strongly skewed times with the median 1."""
    return rng.exponential(1 / np.log(2), count)


@pytest.mark.parametrize(
    ("count", "sets"),
    [
        *((count, 4000) for count in (2, 3, 5, 6, 7, 10, 15, 49)),
        pytest.param(BOOTSTRAP_LEAST, 400, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("draw", [lognormal, exponential])
def test_interval_covers_the_median_of_skewed_times(
    draw: Callable[[np.random.Generator, int], np.ndarray], count: int, sets: int
) -> None:
    rng = np.random.default_rng(11)
    intervals = [median_confidence_interval(draw(rng, count)) for _ in range(sets)]
    covered = np.mean([low <= 1 <= high for low, high in filter(None, intervals)])
    assert len(intervals) == sets
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("count", [51, 61, 77, 97, 101, 301])
def test_bootstrap_covers_the_median_whatever_the_distribution(count: int) -> None:
    """Of an odd number of values its ends are two of them, by rank, so that the coverage is known exactly."""
    interval = median_confidence_interval(np.arange(1.0, count + 1))
    assert interval is not None
    low, high = (int(end) for end in interval)
    assert (low, high) == interval
    covered = binom.cdf(high - 1, count, 0.5) - binom.cdf(low - 1, count, 0.5)
    assert 0.93 <= covered <= 0.97


def test_interval_of_a_drifting_machine_is_about_its_middle() -> None:
    """The interval describes the run as a whole; how fast the machine was when it began it does not say."""
    rng = np.random.default_rng(12)
    drift, count = 0.02, 20
    start, middle = 0, 0
    for _ in range(500):
        interval = median_confidence_interval(np.exp(rng.normal(0, 0.003, count) + np.linspace(0, drift, count)))
        assert interval is not None
        low, high = interval
        start += low <= 1 <= high
        middle += low <= np.exp(drift / 2) <= high
    assert middle >= 0.97 * 500
    assert start <= 0.05 * 500


def test_interval_of_passes_that_hang_together_is_too_narrow() -> None:
    """What docs/measuring.md warns of: each pass keeps 0.6 of the last one's deviation."""
    rng = np.random.default_rng(13)
    covered = 0
    for _ in range(500):
        deviation = np.zeros(80)
        for index, noise in enumerate(rng.normal(0, 0.003, 79)):
            deviation[index + 1] = 0.6 * deviation[index] + noise
        interval = median_confidence_interval(np.exp(deviation[-20:]))
        assert interval is not None
        covered += interval[0] <= 1 <= interval[1]
    assert 0.6 <= covered / 500 <= 0.85


def test_half_width_and_spread_are_relative_to_the_median() -> None:
    values = np.arange(95.0, 106.0)
    interval = median_confidence_interval(values)
    assert interval is not None
    assert relative_half_width_pct(values) == pytest.approx((interval[1] - interval[0]) / 2)
    assert relative_spread_pct([98.0, 100.0, 102.0]) == pytest.approx(2.0)


def test_with_interval_leaves_out_what_is_not_known() -> None:
    x = Throughput("x", "1", "of a test")
    assert with_confidence_interval(x, []) == {}
    assert with_confidence_interval(x, [2.0]) == {x: 2.0}
    assert by_name(with_confidence_interval(x, [2.0, 2.0])) == {"x": 2.0, "x_ci_low": 2.0, "x_ci_high": 2.0}


@given(st.lists(positive, min_size=1, max_size=200))
def test_percentiles_are_ordered_and_within_the_values(step_ms: list[float]) -> None:
    found = by_name(step_percentiles(step_ms))
    p50, p90, p99 = (found[f"decode_step_ms_{name}"] for name in ("p50", "p90", "p99"))
    assert min(step_ms) <= p50 <= p90 <= p99 <= max(step_ms)
    assert min(step_ms) * (1 - 1e-9) <= found["decode_step_ms_mean"] <= max(step_ms) * (1 + 1e-9)


def test_percentiles_of_a_hundred_and_one_steps() -> None:
    assert by_name(step_percentiles(np.arange(101.0))) == {
        "decode_step_ms_p50": 50.0,
        "decode_step_ms_p90": 90.0,
        "decode_step_ms_p99": 99.0,
        "decode_step_ms_mean": 50.0,
    }


def test_no_steps_have_no_step_percentiles() -> None:
    assert step_percentiles([]) == {}

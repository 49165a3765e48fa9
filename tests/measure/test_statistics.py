import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt_mlflow.measure.statistics import (
    median_interval,
    percentiles,
    relative_half_width_pct,
    relative_spread_pct,
    with_interval,
)

positive = st.floats(min_value=1e-3, max_value=1e9)
samples = st.lists(positive, min_size=2, max_size=30)
few_examples = settings(max_examples=30, deadline=None)  # each example is a whole bootstrap


@few_examples
@given(samples)
def test_interval_holds_the_median_and_stays_within_the_values(values: list[float]) -> None:
    interval = median_interval(values)
    assert interval is not None
    low, high = interval
    assert min(values) <= low <= np.median(values) <= high <= max(values)


@few_examples
@given(samples)
def test_interval_is_deterministic(values: list[float]) -> None:
    assert median_interval(values) == median_interval(values)


@few_examples
@given(samples, st.integers(-8, 8).map(lambda power: 2.0**power))
def test_interval_scales_with_the_values(values: list[float], factor: float) -> None:
    interval = median_interval(values)
    scaled = median_interval([factor * value for value in values])
    assert interval is not None
    assert scaled == pytest.approx((factor * interval[0], factor * interval[1]), rel=1e-12)


@few_examples
@given(positive, st.integers(2, 20))
def test_equal_values_give_an_interval_of_no_width(value: float, count: int) -> None:
    assert median_interval([value] * count) == (value, value)
    assert relative_half_width_pct([value] * count) == 0
    assert relative_spread_pct([value] * count) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert median_interval(values) is None
    assert relative_half_width_pct(values) is None
    assert relative_spread_pct(values) is None


def test_a_higher_confidence_is_not_narrower() -> None:
    values = np.random.default_rng(3).normal(100, 1, 40)
    narrow, wide = median_interval(values, 0.5), median_interval(values, 0.99)
    assert narrow is not None
    assert wide is not None
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


def test_interval_covers_the_true_median() -> None:
    """Of 200 sets of 15 values from a skewed distribution nearly all intervals hold its median."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        interval = median_interval(np.exp(rng.normal(0, 0.3, 15)))
        assert interval is not None
        covered += interval[0] <= 1.0 <= interval[1]
    assert covered >= 180


def test_half_width_and_spread_are_relative_to_the_median() -> None:
    values = [98.0, 102.0]
    assert median_interval(values) == (98.0, 102.0)
    assert relative_half_width_pct(values) == pytest.approx(2.0)
    assert relative_spread_pct([98.0, 100.0, 102.0]) == pytest.approx(2.0)


def test_with_interval_leaves_out_what_is_not_known() -> None:
    assert with_interval("x", []) == {}
    assert with_interval("x", [2.0]) == {"x": 2.0}
    assert with_interval("x", [2.0, 2.0]) == {"x": 2.0, "x_ci_low": 2.0, "x_ci_high": 2.0}


@given(st.lists(positive, min_size=1, max_size=200))
def test_percentiles_are_ordered_and_within_the_values(step_ms: list[float]) -> None:
    found = percentiles(step_ms)
    p50, p90, p99 = (found[f"decode_step_ms_{name}"] for name in ("p50", "p90", "p99"))
    assert min(step_ms) <= p50 <= p90 <= p99 <= max(step_ms)
    assert min(step_ms) * (1 - 1e-9) <= found["decode_step_ms_mean"] <= max(step_ms) * (1 + 1e-9)


def test_percentiles_of_a_hundred_and_one_steps() -> None:
    assert percentiles(np.arange(101.0)) == {
        "decode_step_ms_p50": 50.0,
        "decode_step_ms_p90": 90.0,
        "decode_step_ms_p99": 99.0,
        "decode_step_ms_mean": 50.0,
    }


def test_no_steps_have_no_percentiles() -> None:
    assert percentiles([]) == {}

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.measurement.settling import CLOCK_SAMPLES_LEAST, clocks_settled, times_settled

positive = st.floats(min_value=1e-3, max_value=1e6)


@pytest.mark.parametrize(
    ("total_ms", "expected"),
    [
        ([], False),
        ([100], False),
        ([100, 100], False),
        ([100, 101, 100.5], True),
        ([100, 102, 100], False),
        ([100.0, 99.4, 98.8], False),  # slowly on its way
        ([900, 100, 101, 100.5], True),
        ([900, 300, 100, 101, 110, 90], False),  # the three before were slower
        ([900, 300, 200, 101, 110, 90], False),
        ([101, 110, 90, 92, 100, 112], True),  # noisy, with no direction
    ],
)
def test_times(total_ms: list[float], expected: bool) -> None:
    assert times_settled(total_ms) is expected


@given(positive, st.integers(3, 20))
def test_equal_passes_have_settled(ms: float, count: int) -> None:
    assert times_settled([ms] * count)


@given(positive, st.floats(min_value=0.5, max_value=0.99) | st.floats(min_value=1.01, max_value=4), st.integers(0, 30))
def test_passes_that_still_change_steadily_have_not(first_ms: float, factor: float, count: int) -> None:
    assert not times_settled([first_ms * factor**index for index in range(count)])


def test_noise_does_not_hold_the_warm_up() -> None:
    """Of passes that scatter by 5 % and have no direction, hardly any takes more than 15 to be believed."""
    rng = np.random.default_rng(0)
    believed = [
        any(times_settled(total_ms[:count]) for count in range(16))
        for total_ms in rng.normal(100, 5, (200, 15)).tolist()
    ]
    assert np.mean(believed) > 0.97


@given(st.lists(positive, max_size=12), st.integers(-8, 8).map(lambda power: 2.0**power))
def test_the_unit_does_not_matter(total_ms: list[float], factor: float) -> None:
    assert times_settled(total_ms) is times_settled([factor * ms for ms in total_ms])


@given(st.lists(positive, max_size=CLOCK_SAMPLES_LEAST - 1))
def test_too_few_clock_samples_say_nothing(mhz: list[float]) -> None:
    assert not clocks_settled(mhz)


def test_clocks() -> None:
    assert clocks_settled([1980.0] * CLOCK_SAMPLES_LEAST)
    assert not clocks_settled([345.0] * 10 + [1980.0] * 10)
    assert not clocks_settled(np.linspace(1980, 1700, 40).tolist())
    # at the power cap: up and down by some percent, about the same mean
    capped = np.random.default_rng(0).uniform(1485, 1800, 60).tolist()
    assert clocks_settled(capped)

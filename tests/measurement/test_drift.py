from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.measurement.drift import FALSE_ALARM_RATE, Drift, drift_across, drift_within

totals = st.lists(st.floats(min_value=1.0, max_value=1e3), min_size=4, max_size=40)
FOLD = np.where(np.arange(16) == 15, 1.4, 1.0)  # one period of a TTT model's steps


def across(total_ms: list[float] | np.ndarray) -> Drift:
    drift = drift_across(list(total_ms))
    assert drift is not None
    return drift


@given(totals)
def test_backwards_it_is_the_same_drift_the_other_way(total_ms: list[float]) -> None:
    forwards, backwards = across(total_ms), across(total_ms[::-1])
    assert (1 + forwards.pct / 100) * (1 + backwards.pct / 100) == pytest.approx(1)
    assert forwards.p_value == pytest.approx(backwards.p_value, abs=1e-6)
    assert forwards.p_value is not None
    assert 0 <= forwards.p_value <= 1


@given(totals, st.integers(-8, 8).map(lambda power: 2.0**power))
def test_the_unit_does_not_matter(total_ms: list[float], factor: float) -> None:
    drift, scaled = across(total_ms), across([factor * ms for ms in total_ms])
    assert scaled.pct == pytest.approx(drift.pct, abs=1e-6)
    assert scaled.p_value == pytest.approx(drift.p_value, abs=1e-6)


@given(st.floats(min_value=1e-3, max_value=1e6), st.integers(4, 40))
def test_a_machine_without_noise(ms: float, count: int) -> None:
    assert across([ms] * count).pct == pytest.approx(0, abs=1e-9)
    assert across([ms] * count).p_value == 1
    third = count // 3
    slower = across([ms] * (count - third) + [1.02 * ms] * third)
    assert slower.pct == pytest.approx(2)
    assert slower.p_value == 0
    assert slower.found


def test_a_contrast_by_hand() -> None:
    """Thirds e^0, e^2 | e^1, e^3 | e^4, e^6: means 1, 2, 5, the noise's variance 6/3, so t = 4 / √2 with 3 degrees."""
    drift = across(np.exp([0, 2, 1, 3, 4, 6]))
    assert drift.pct == pytest.approx(100 * (np.exp(4) - 1))
    assert drift.p_value == pytest.approx(0.0663, abs=1e-4)


@pytest.mark.parametrize("count", range(2))
def test_too_few_passes_say_nothing(count: int) -> None:
    assert drift_across([1.0] * count) is None


@pytest.mark.parametrize("total_ms", [[1.0, 1.02], [1.0, 7.0, 1.02]])
def test_few_passes_have_a_drift_and_no_noise(total_ms: list[float]) -> None:
    drift = across(total_ms)
    assert drift.pct == pytest.approx(2)
    assert drift.p_value is None
    assert not drift.found


@pytest.mark.parametrize(("passes", "steps"), [(0, 48), (2, 48), (3, 47), (9, 1)])
def test_too_few_passes_or_periods_say_nothing_within(passes: int, steps: int) -> None:
    assert drift_within([np.ones(steps)] * passes, 16) is None


@pytest.mark.parametrize(("steps", "period"), [(47, 1), (71, 24), (47, 48), (143, 48)])
def test_a_third_of_less_than_a_period_or_sixteen_steps_says_nothing(steps: int, period: int) -> None:
    assert drift_within([np.ones(steps)] * 9, period) is None
    assert drift_within([np.ones(max(48, 3 * period))] * 9, period) is not None


@pytest.mark.parametrize("steps", [48, 100, 128, 511])
@pytest.mark.parametrize("first", [0, 1, 15])
def test_a_fold_every_sixteenth_step_is_no_drift(steps: int, first: int) -> None:
    one_pass = np.resize(np.roll(FOLD, first), steps)
    drift = drift_within([one_pass * scale for scale in (1.0, 1.1, 0.9, 1.0)], 16)
    assert drift is not None
    assert drift.pct == pytest.approx(0, abs=1e-9)
    assert not drift.found


def test_without_its_period_a_fold_would_be_a_drift() -> None:
    drift = drift_within([np.tile(FOLD, 5)] * 4, period=1)  # thirds of 26 steps: one fold in the first, two in the last
    assert drift is not None
    assert drift.found


def test_every_pass_that_slows_down_the_same_way_is_a_drift_within() -> None:
    rng = np.random.default_rng(1)
    slowing = np.linspace(1, 1.03, 480)
    passes = [np.tile(FOLD, 30) * slowing * np.exp(rng.normal(0, 0.02, 480)) for _ in range(6)]
    within = drift_within(passes, 16)
    assert within is not None
    assert within.found
    assert within.pct == pytest.approx(2, abs=0.5)
    assert not across([float(ms.sum()) for ms in passes]).found


@pytest.mark.parametrize("count", [4, 6, 9, 20])
def test_false_alarms_are_as_rare_as_stated(count: int) -> None:
    """Passes with skewed noise; both tests together alarm in FALSE_ALARM_RATE of 3000 runs, give or take."""
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(3000):
        passes = list(1 + 0.02 * rng.gamma(1, 1, (count, 48)))
        within = drift_within(passes, 16)
        assert within is not None
        alarms += across([float(ms.sum()) for ms in passes]).found or within.found
    assert alarms / 3000 == pytest.approx(FALSE_ALARM_RATE, abs=0.015)


def steady(count: int) -> np.ndarray:
    return np.linspace(0, 0.01, count)


def jump(count: int) -> np.ndarray:
    return np.where(np.arange(count) < count - count // 3, 0, 0.01)


@pytest.mark.parametrize("shape", [steady, jump])
@pytest.mark.parametrize(("count", "noise"), [(6, 0.0005), (15, 0.002), (30, 0.004)])
def test_a_drift_of_one_percent_is_found(count: int, noise: float, shape: Callable[[int], np.ndarray]) -> None:
    rng = np.random.default_rng(8)
    runs = np.exp(rng.normal(0, noise, (300, count)) + shape(count))
    assert np.mean([across(total_ms).found for total_ms in runs]) >= 0.8

import json
import signal
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from tests.catalog import METRIC_NAMES, by_name
from ttt_mlflow import names
from ttt_mlflow.errors import Killed
from ttt_mlflow.measurement import loop
from ttt_mlflow.measurement.budget import Budget
from ttt_mlflow.measurement.loop import Measurement, Observer, Pass, measure_passes
from ttt_mlflow.measurement.timing import StepTimes, time_steps

CPU = torch.device("cpu")


def times(step_ms: Iterable[float], complete: bool = True) -> StepTimes:
    steps = np.array(list(step_ms), dtype=np.float64)
    return StepTimes(step_ms=steps, total_ms=float(steps.sum()), wall_ms=float(steps.sum()), complete=complete)


RecentClocks = Callable[[float], Sequence[float] | None]


def budget(**settings: Any) -> Budget:
    return Budget(**{"warmup": None, "repeats": None, "precision_pct": 0.5, "max_seconds": 60.0} | settings)


class Watcher(Observer):
    """Writes down what it hears, and knows the clocks."""

    def __init__(self, log: list[str], recent_clocks: RecentClocks = lambda seconds: None) -> None:
        self.log, self.recent_clocks = log, recent_clocks
        self.progressed: list[tuple[float, str]] = []

    def section(self, edge: Literal["begin", "end"]) -> None:
        self.log.append(edge)

    def recent_sm_clocks(self, seconds: float) -> Sequence[float] | None:
        return self.recent_clocks(seconds)

    def progress(self, fraction: float, text: str) -> None:
        self.log.append("progress")
        self.progressed.append((fraction, text))


class Machine:
    """Passes of two steps with given total times in ms, on a clock that only they move; writes down what happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, totals: Iterable[float]) -> None:
        self.totals = iter(totals)
        self.seconds = 0.0
        self.log: list[str] = []
        clocks = SimpleNamespace(perf_counter=lambda: self.seconds, time_ns=lambda: int(1e9 * self.seconds))
        monkeypatch.setattr(loop, "time", clocks)

    def one_pass(self) -> StepTimes:
        self.log.append("pass")
        total = next(self.totals)
        self.seconds += total / 1e3
        return times([total / 2] * 2)

    def measure(
        self,
        recent_clocks: RecentClocks = lambda seconds: None,
        warm_once: Callable[[], StepTimes] | None = None,
        **settings: Any,
    ) -> Measurement:
        one = Pass(self.one_pass, warm_once or self.one_pass, lambda: self.log.append("prepare"))
        measurement = Measurement()
        measure_passes(one, budget(**{"warmup": 0, **settings}), Watcher(self.log, recent_clocks), measurement)
        return measurement


def endless(*values: float) -> Iterable[float]:
    """The values, the last one for ever."""
    yield from values
    while True:
        yield values[-1]


def timed(step: Callable[[], object], count: int) -> Pass:
    return Pass(lambda: time_steps(step, count, CPU), lambda: time_steps(step, count, CPU))


def test_order_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, endless(10))
    machine.measure(warmup=1, repeats=2)
    warmup = ["progress", "prepare", "pass", "progress"]
    repeat = ["progress", "prepare", "begin", "pass", "end"]
    assert machine.log == warmup + repeat + repeat + ["progress"]


def test_a_given_count_is_kept_whatever_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(50_000)).measure(warmup=2, repeats=3)
    assert measurement.warmup_count == 2
    assert measurement.warmup_s == 100
    assert measurement.warmup_stop_reason == "count"
    assert len(measurement.repeats) == 3
    assert measurement.stop_reason == "count"
    assert not measurement.interrupted


def test_it_is_kept_when_each_timed_pass_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(100, 20, 30)).measure(warmup=1, repeats=3)
    assert measurement.ended_ms == [120, 150, 180]
    assert measurement.record(1)["repeat_ended_ms"] == [120, 150, 180]


def test_warmup_ends_when_passes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(900, 120, 101, 100.5, 100)).measure(warmup=None, repeats=1)
    assert [warm.total_ms for warm in measurement.warmup] == [900, 120, 101, 100.5, 100]
    assert measurement.warmup_stop_reason == "settled"
    assert not measurement.record(1)["warmup_watched_clocks"]


def test_warmup_goes_on_until_the_clocks_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes agree at once; the clock, read every 50 ms, rises for a second."""
    machine = Machine(monkeypatch, endless(100))
    asked: list[float] = []

    def recent(seconds: float) -> list[float]:
        asked.append(seconds)
        first, last = round((machine.seconds - seconds) * 20), round(machine.seconds * 20)
        return [min(1980.0, 345 + 82 * sample) for sample in range(first, last)]

    measurement = machine.measure(warmup=None, repeats=1, recent_clocks=recent)
    assert measurement.warmup_stop_reason == "settled"
    # after 2.9 s the earlier of the last two seconds has nearly the full clock too
    assert measurement.warmup_count == 29
    assert measurement.record(1)["warmup_watched_clocks"]
    assert asked[:3] == [pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.3)]  # never from before the warm-up
    assert asked[-1] == pytest.approx(2.0)


def test_warmup_that_watches_the_clocks_lasts_for_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU at its power cap lowers its clock over seconds: half a second of a steady clock says nothing."""
    steady = Machine(monkeypatch, endless(100)).measure(
        warmup=None, repeats=1, recent_clocks=lambda seconds: [1980.0] * round(seconds / 0.05)
    )
    assert steady.warmup_stop_reason == "settled"
    assert steady.warmup_count == 20


def test_warmup_looks_at_the_clocks_of_the_passes_that_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    Machine(monkeypatch, endless(2000, 1000)).measure(
        warmup=None, repeats=1, recent_clocks=lambda seconds: asked.append(seconds)
    )
    assert asked == [pytest.approx(seconds) for seconds in (2.0, 3.0, 4.0, 3.0)]


def test_clocks_that_never_stand_do_not_hold_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(1000)).measure(warmup=None, repeats=1, recent_clocks=lambda seconds: [])
    assert measurement.warmup_stop_reason == "time_share"
    assert measurement.warmup_s == pytest.approx(12)


def test_a_given_count_does_not_ask_for_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def recent(seconds: float) -> list[float]:
        raise AssertionError("nobody should ask")

    Machine(monkeypatch, endless(100)).measure(warmup=5, repeats=1, recent_clocks=recent)


def test_warmup_of_an_unsteady_machine_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "WARMUP_MOST", 9)
    measurement = Machine(monkeypatch, (2**n for n in range(50))).measure(warmup=None, repeats=1)
    assert measurement.warmup_count == 9
    assert measurement.warmup_stop_reason == "most_passes"


def test_warmup_uses_a_share_of_the_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(30_000, 100)).measure(warmup=None, repeats=1)
    assert measurement.warmup_count == 1
    assert measurement.warmup_stop_reason == "time_share"


def test_repeats_end_when_the_interval_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(100)).measure()
    assert len(measurement.repeats) == loop.PASSES_BEFORE_STOP
    assert measurement.stop_reason == "interval"


def test_repeats_go_on_until_the_verdict_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow interval after 0.12 s says nothing about clocks, of which there are two samples then."""
    measurement = Machine(monkeypatch, endless(20)).measure(section_s=0.75)
    assert sum(timed.total_ms for timed in measurement.repeats) == pytest.approx(760)
    assert measurement.stop_reason == "interval"
    ended = Machine(monkeypatch, endless(20)).measure(section_s=0.75, max_seconds=0.5)
    assert ended.stop_reason == "max_seconds"


def test_repeats_go_on_while_the_interval_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    early = [100, 108, 92, 104, 96]
    measurement = Machine(monkeypatch, endless(*early, 100)).measure()
    assert len(measurement.repeats) > loop.PASSES_BEFORE_STOP
    assert measurement.stop_reason == "interval"


@pytest.mark.parametrize("precision_pct", [0.2, 1.0, 5.0])
def test_the_interval_is_as_narrow_as_asked_for(monkeypatch: pytest.MonkeyPatch, precision_pct: float) -> None:
    noise = np.random.default_rng(1).normal(100, 2, 10_000).tolist()
    measurement = Machine(monkeypatch, noise).measure(precision_pct=precision_pct, max_seconds=1e6)
    assert measurement.stop_reason == "interval"
    assert by_name(measurement.decode_metrics(1))["relative_half_width_pct"] < precision_pct
    assert len(measurement.repeats) < 10_000


def test_a_finer_precision_takes_more_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).normal(100, 2, 10_000).tolist()
    counts = [
        len(Machine(monkeypatch, noise).measure(precision_pct=precision, max_seconds=1e6).repeats)
        for precision in (5.0, 1.0, 0.3)
    ]
    assert counts == sorted(set(counts))


def test_repeats_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).uniform(500, 1500, 1000).tolist()
    machine = Machine(monkeypatch, noise)
    measurement = machine.measure(max_seconds=10.0)
    assert measurement.stop_reason == "max_seconds"
    assert machine.seconds <= 10.0
    assert len(measurement.repeats) >= loop.PASSES_BEFORE_STOP


def test_there_is_always_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(5_000, 5_100)).measure(max_seconds=0.001)
    assert [repeat.complete for repeat in measurement.repeats] == [True, True]
    assert measurement.stop_reason == "max_seconds"
    assert "decode_tokens_per_s_ci_low" in by_name(measurement.decode_metrics(1))


def test_warmup_may_have_a_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, endless(100))
    short = [times([40.0]) for _ in range(3)]
    measurement = machine.measure(warmup=None, repeats=1, warm_once=lambda: short.pop(0))
    assert [one.total_ms for one in measurement.warmup] == [40.0, 40.0, 40.0]
    assert [one.total_ms for one in measurement.repeats] == [100.0]


def test_progress_never_leaves_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, endless(9_000, 10_000, 11_000))
    watcher = Watcher([])
    measure_passes(Pass(machine.one_pass, machine.one_pass), budget(max_seconds=5.0), watcher, Measurement())
    seen = watcher.progressed
    assert all(0 <= fraction <= 1 for fraction, _ in seen)
    assert seen[0] == (0.0, "warm-up pass 1")
    assert seen[-1] == (1.0, "timed passes ended (max_seconds), passes: 2")
    assert (0.0, "warm-up ended (time_share), passes: 1, 9.00 s") in seen


@pytest.mark.parametrize("error", [Killed(signal.SIGINT), KeyboardInterrupt(), torch.OutOfMemoryError("no memory")])
def test_an_interruption_keeps_what_was_measured(error: BaseException) -> None:
    calls = 0
    watcher = Watcher([])

    def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 4 * 2 + 3:  # the third step of the third pass
            raise error

    measurement = Measurement()
    with pytest.raises(type(error)):
        measure_passes(timed(step, 4), budget(warmup=1, repeats=9), watcher, measurement)
    assert measurement.interrupted
    assert measurement.stop_reason == "interrupted"
    assert [repeat.complete for repeat in measurement.repeats] == [True, False]
    assert [event for event in watcher.log if event != "progress"] == ["begin", "end", "begin", "end"]

    frame = measurement.steps_frame()
    assert frame["repeat"].tolist() == [0, 0, 0, 0, 1, 1]
    assert frame["complete"].tolist() == [True] * 4 + [False] * 2
    metrics = by_name(measurement.decode_metrics(tokens_per_pass=8))
    assert metrics["decode_tokens_per_s"] == pytest.approx(8e3 / measurement.repeats[0].total_ms)
    assert "decode_tokens_per_s_ci_low" not in metrics


def test_an_interrupted_warmup_is_no_repeat() -> None:
    def step() -> None:
        raise KeyboardInterrupt

    measurement = Measurement()
    with pytest.raises(KeyboardInterrupt):
        measure_passes(timed(step, 2), budget(warmup=1, repeats=1), Observer(), measurement)
    assert measurement.interrupted
    assert measurement.repeats == []
    assert measurement.decode_metrics(1) == {}
    assert measurement.steps_frame().columns.tolist() == ["repeat", "step", "ms", "complete"]
    assert measurement.steps_frame().empty


def test_decode_metrics() -> None:
    measurement = Measurement(repeats=[times([1, 3]), times([2, 2]), times([4, 6]), times([500], complete=False)])
    metrics = by_name(measurement.decode_metrics(tokens_per_pass=20))
    assert metrics["decode_tokens_per_s"] == pytest.approx(5000)  # 20 tokens in 4, 4 and 10 ms
    assert metrics["decode_tokens_per_s_ci_low"] < 2000  # of three passes little is known
    assert metrics["decode_tokens_per_s_ci_high"] > 5000
    half_width = (metrics["decode_tokens_per_s_ci_high"] - metrics["decode_tokens_per_s_ci_low"]) / 2
    assert metrics["relative_half_width_pct"] == pytest.approx(100 * half_width / 5000)
    assert metrics["measured_passes"] == 3
    assert metrics["decode_step_ms_mean"] == pytest.approx(3)
    assert metrics["decode_step_ms_p50"] == pytest.approx(2.5)
    assert metrics["relative_spread_pct"] == pytest.approx(100 * np.std([5000, 5000, 2000], ddof=1) / 5000)
    assert set(metrics) <= METRIC_NAMES


def test_prefill_metrics() -> None:
    measurement = Measurement(repeats=[times([10]), times([20]), times([40])])
    metrics = by_name(measurement.prefill_metrics(tokens_per_pass=400))
    assert metrics["prefill_tokens_per_s"] == pytest.approx(20_000)
    assert metrics["prefill_tokens_per_s_ci_low"] < 10_000
    assert metrics["prefill_tokens_per_s_ci_high"] > 40_000
    assert metrics["prefill_ms"] == pytest.approx(20)
    assert Measurement().prefill_metrics(1) == {}


def test_record_is_plain_data() -> None:
    measurement = Measurement(warmup=[times([9])], repeats=[times([1, 2])], stop_reason="count")
    record = json.loads(json.dumps(measurement.record(8)))
    assert record["warmup_total_ms"] == [9]
    assert record["repeat_total_ms"] == [3]
    assert record["stop_reason"] == "count"


def test_the_drift_of_the_complete_passes_is_recorded() -> None:
    """48 steps a pass: three periods. Every pass takes 1 % longer than the one before; within one nothing moves."""
    fold = np.where(np.arange(48) % 16 == 0, 2.0, 1.0)
    passes = [times(fold * 1.01**index) for index in range(6)]
    measurement = Measurement(repeats=[*passes, times([900.0], complete=False)], warmup_stop_reason="count", period=16)
    metrics = by_name(measurement.decode_metrics(48))
    assert metrics["drift_pct"] == pytest.approx(100 * (1.01**4 - 1))
    assert metrics["drift_within_pass_pct"] == pytest.approx(0)
    assert metrics["drift_within_pass_p_value"] == 1
    assert metrics["warmup_passes"] == 0
    assert set(metrics) <= METRIC_NAMES
    record = json.loads(json.dumps(measurement.record(8)))
    assert record["drift_false_alarm_rate"] == 0.05
    assert record["drift"]["drift"] == {
        "pct": metrics["drift_pct"],
        "p_value": metrics["drift_p_value"],
        "found": metrics["drift_p_value"] < 0.025,
    }
    assert record["drift"]["drift_within_pass"]["found"] is False


def test_drift_that_cannot_be_tested_is_absent() -> None:
    measurement = Measurement(repeats=[times([1, 2])] * 3)
    assert {name for name in by_name(measurement.decode_metrics(1)) if "drift" in name} == {"drift_pct"}
    measurement = Measurement(repeats=[times([1, 2])])
    assert not [name for name in by_name(measurement.decode_metrics(1)) if "drift" in name]
    assert measurement.record(8)["drift"] == {}


def test_the_drift_within_a_pass_is_over_the_models_own_periods() -> None:
    """Every 24th step costs more; over periods of 16, the last third of 72 steps would have more of them."""
    passes = [times(np.where(np.arange(96) % 24 == 23, 2.0, 1.0)) for _ in range(4)]
    own, other = (Measurement(repeats=passes, period=period).drifts()["drift_within_pass"] for period in (24, 16))
    assert own.pct == pytest.approx(0)
    assert other.found


def test_steps_whose_cost_grows_do_not_drift_within_a_pass() -> None:
    passes = [times(np.linspace(1, 2, 96)) for _ in range(4)]
    assert Measurement(repeats=passes).drifts()["drift_within_pass"].found
    growing = Measurement(repeats=passes, cost_grows=True)
    assert set(growing.drifts()) == {"drift"}
    assert not [name for name in by_name(growing.decode_metrics(96)) if "drift_within_pass" in name]
    assert set(json.loads(json.dumps(growing.record(8)))["drift"]) == {"drift"}


def test_stop_tags() -> None:
    assert Measurement().stop_tags() == {}
    tags = Measurement(warmup_stop_reason="settled", stop_reason="interval").stop_tags()
    assert tags == {names.TAG_WARMUP_STOP_REASON: "settled", names.TAG_STOP_REASON: "interval"}
    assert set(tags) <= set(names.TAGS)

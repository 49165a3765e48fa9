import json
import signal
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ttt_mlflow import names
from ttt_mlflow.errors import Killed
from ttt_mlflow.measure import loop
from ttt_mlflow.measure.loop import Measurement, measure_decode, measure_prefill, settled
from ttt_mlflow.measure.timing import StepTimes, time_steps

CPU = torch.device("cpu")


def times(step_ms: Iterable[float], complete: bool = True) -> StepTimes:
    steps = np.array(list(step_ms), dtype=np.float64)
    return StepTimes(step_ms=steps, total_ms=float(steps.sum()), wall_ms=float(steps.sum()), complete=complete)


class Machine:
    """Passes of two steps with given total times in ms, on a clock that only they move; writes down what happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, totals: Iterable[float]) -> None:
        self.totals = iter(totals)
        self.seconds = 0.0
        self.log: list[str] = []
        monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: self.seconds))

    def one_pass(self) -> StepTimes:
        self.log.append("pass")
        total = next(self.totals)
        self.seconds += total / 1e3
        return times([total / 2] * 2)

    def measure(self, **settings: object) -> Measurement:
        arguments: dict[str, object] = {"warmup": 0, "repeats": None, "max_seconds": 60.0} | settings
        return measure_decode(
            self.one_pass,
            prepare=lambda: self.log.append("prepare"),
            on_section=self.log.append,
            progress=lambda fraction, text: self.log.append("progress"),
            **arguments,  # type: ignore[arg-type]
        )


def endless(*values: float) -> Iterable[float]:
    """The values, the last one for ever."""
    yield from values
    while True:
        yield values[-1]


def test_order_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, endless(10))
    machine.measure(warmup=1, repeats=2)
    warmup = ["progress", "prepare", "pass"]
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


def test_warmup_ends_when_two_passes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(900, 120, 101, 100.5, 100)).measure(warmup=None, repeats=1)
    assert [warm.total_ms for warm in measurement.warmup] == [900, 120, 101, 100.5]
    assert measurement.warmup_stop_reason == "settled"


def test_warmup_of_an_unsteady_machine_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, (100 * 2**n for n in range(50))).measure(warmup=None, repeats=1)
    assert measurement.warmup_count == loop.WARMUP_MOST
    assert measurement.warmup_stop_reason == "most_passes"


def test_warmup_uses_a_share_of_the_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(30_000, 100)).measure(warmup=None, repeats=1)
    assert measurement.warmup_count == 1
    assert measurement.warmup_stop_reason == "time_share"


def test_repeats_end_when_the_interval_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(100)).measure()
    assert len(measurement.repeats) == loop.REPEATS_BELIEVED
    assert measurement.stop_reason == "interval"


def test_repeats_go_on_while_the_interval_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    early = [100, 108, 92, 104, 96]
    measurement = Machine(monkeypatch, endless(*early, 100)).measure()
    assert len(measurement.repeats) > loop.REPEATS_BELIEVED
    assert measurement.stop_reason == "interval"


def test_repeats_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).uniform(500, 1500, 1000).tolist()
    machine = Machine(monkeypatch, noise)
    measurement = machine.measure(max_seconds=10.0)
    assert measurement.stop_reason == "max_seconds"
    assert machine.seconds <= 10.0
    assert len(measurement.repeats) >= loop.REPEATS_BELIEVED


def test_there_is_always_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = Machine(monkeypatch, endless(5_000, 5_100)).measure(max_seconds=0.001)
    assert [repeat.complete for repeat in measurement.repeats] == [True, True]
    assert measurement.stop_reason == "max_seconds"
    assert "decode_tokens_per_s_ci_low" in measurement.decode_metrics(batch=1)


def test_warmup_may_have_a_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, endless(100))
    short = [times([40.0]), times([40.0])]
    measurement = machine.measure(warmup=None, repeats=1, warm_once=lambda: short.pop(0))
    assert [one.total_ms for one in measurement.warmup] == [40.0, 40.0]
    assert [one.total_ms for one in measurement.repeats] == [100.0]


def test_progress_never_leaves_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, endless(9_000, 10_000, 11_000))
    seen: list[tuple[float, str]] = []
    measure_decode(
        machine.one_pass,
        warmup=None,
        repeats=None,
        max_seconds=5.0,
        progress=lambda fraction, text: seen.append((fraction, text)),
    )
    assert all(0 <= fraction <= 1 for fraction, _ in seen)
    assert seen[0] == (0.0, "warm-up pass 1")
    assert seen[-1] == (1.0, "repeats done: 2")


@pytest.mark.parametrize("error", [Killed(signal.SIGINT), KeyboardInterrupt(), torch.OutOfMemoryError("no memory")])
def test_an_interruption_keeps_what_was_measured(error: BaseException) -> None:
    calls = 0
    sections: list[str] = []

    def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 4 * 2 + 3:  # the third step of the third pass
            raise error

    measurement = Measurement()
    with pytest.raises(type(error)):
        measure_decode(
            lambda: time_steps(step, 4, CPU),
            warmup=1,
            repeats=9,
            max_seconds=60.0,
            on_section=sections.append,
            measurement=measurement,
        )
    assert measurement.interrupted
    assert measurement.stop_reason == "interrupted"
    assert [repeat.complete for repeat in measurement.repeats] == [True, False]
    assert sections == ["begin", "end", "begin", "end"]

    frame = measurement.steps_frame()
    assert frame["repeat"].tolist() == [0, 0, 0, 0, 1, 1]
    assert frame["complete"].tolist() == [True] * 4 + [False] * 2
    metrics = measurement.decode_metrics(batch=2)
    assert metrics["decode_tokens_per_s"] == pytest.approx(8e3 / measurement.repeats[0].total_ms)
    assert "decode_tokens_per_s_ci_low" not in metrics


def test_an_interrupted_warmup_is_no_repeat() -> None:
    def step() -> None:
        raise KeyboardInterrupt

    measurement = Measurement()
    with pytest.raises(KeyboardInterrupt):
        measure_decode(
            lambda: time_steps(step, 2, CPU),
            warmup=1,
            repeats=1,
            max_seconds=60.0,
            measurement=measurement,
        )
    assert measurement.interrupted
    assert measurement.repeats == []
    assert measurement.decode_metrics(1) == {}
    assert measurement.steps_frame().columns.tolist() == ["repeat", "step", "ms", "complete"]
    assert measurement.steps_frame().empty


def test_decode_metrics() -> None:
    measurement = Measurement(repeats=[times([1, 3]), times([2, 2]), times([4, 6]), times([500], complete=False)])
    metrics = measurement.decode_metrics(batch=10)
    assert metrics["decode_tokens_per_s"] == pytest.approx(5000)  # 20 tokens in 4, 4 and 10 ms
    assert metrics["decode_tokens_per_s_ci_low"] == pytest.approx(2000)
    assert metrics["decode_tokens_per_s_ci_high"] == pytest.approx(5000)
    assert metrics["decode_step_ms_mean"] == pytest.approx(3)
    assert metrics["decode_step_ms_p50"] == pytest.approx(2.5)
    assert metrics["relative_spread_pct"] == pytest.approx(100 * np.std([5000, 5000, 2000], ddof=1) / 5000)
    assert set(metrics) <= set(names.METRICS)


def test_prefill_metrics() -> None:
    measurement = Measurement(repeats=[times([10]), times([20]), times([40])])
    metrics = measurement.prefill_metrics(batch=4, promptlen=100)
    assert metrics["prefill_tokens_per_s"] == pytest.approx(20_000)
    assert metrics["prefill_tokens_per_s_ci_low"] == pytest.approx(10_000)
    assert metrics["prefill_tokens_per_s_ci_high"] == pytest.approx(40_000)
    assert metrics["prefill_ms"] == pytest.approx(20)
    assert Measurement().prefill_metrics(1, 1) == {}


def test_measure_prefill_times_one_call_a_repeat() -> None:
    calls: list[str] = []
    measurement = measure_prefill(
        lambda: calls.append("prompt"),
        CPU,
        warmup=1,
        repeats=3,
        max_seconds=60.0,
        prepare=lambda: calls.append("reset"),
    )
    assert calls == ["reset", "prompt"] * 4
    assert [len(repeat.step_ms) for repeat in measurement.repeats] == [1, 1, 1]


def test_record_is_plain_data() -> None:
    measurement = Measurement(warmup=[times([9])], repeats=[times([1, 2])], stop_reason="count")
    record = json.loads(json.dumps(measurement.record()))
    assert record["warmup_total_ms"] == [9]
    assert record["repeat_total_ms"] == [3]
    assert record["stop_reason"] == "count"


@pytest.mark.parametrize(
    ("totals", "expected"),
    [([], False), ([100], False), ([100, 101], True), ([100, 102], False), ([50, 100, 99.5], True)],
)
def test_settled(totals: list[float], expected: bool) -> None:
    assert settled([times([total]) for total in totals]) is expected

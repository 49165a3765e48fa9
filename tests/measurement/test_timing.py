import gc
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ttt_mlflow.errors import Killed
from ttt_mlflow.measurement.timing import StepTimer, finished_steps, time_once, time_steps

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


class Clock:
    """A clock in ns that moves only when told to."""

    def __init__(self) -> None:
        self.ns = 10_000

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter_ns", clock)
    return clock


def steps_of(clock: Clock, milliseconds: list[float]) -> Callable[[], None]:
    """A step that takes the given times, one after the other."""
    left = iter(milliseconds)

    def step() -> None:
        clock.ns += int(next(left) * 1e6)

    return step


def test_each_step_has_its_own_time(clock: Clock) -> None:
    times = time_steps(steps_of(clock, [1, 2, 4]), 3, CPU)
    assert times.step_ms.tolist() == [1, 2, 4]
    assert times.total_ms == 7
    assert times.wall_ms == 7
    assert times.complete


def test_a_timer_serves_pass_after_pass(clock: Clock) -> None:
    timer = StepTimer(2, CPU)
    assert timer.time_steps(steps_of(clock, [1, 2])).step_ms.tolist() == [1, 2]
    assert timer.time_steps(steps_of(clock, [5, 6])).step_ms.tolist() == [5, 6]


def test_a_pass_has_a_step() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        StepTimer(0, CPU)


@pytest.mark.parametrize(
    "error", [Killed(signal.SIGTERM), KeyboardInterrupt(), torch.OutOfMemoryError("no memory"), ValueError("x")]
)
def test_an_interruption_carries_the_finished_steps(clock: Clock, error: BaseException) -> None:
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        clock.ns += 1_000_000

    with pytest.raises(type(error)) as raised:
        time_steps(step, 5, CPU)
    assert raised.value is error
    times = finished_steps(error)
    assert times is not None
    assert times.step_ms.tolist() == [1, 1]
    assert times.total_ms == 2
    assert not times.complete


def test_an_interruption_before_the_first_step_carries_nothing() -> None:
    def step() -> None:
        raise RuntimeError("at once")

    with pytest.raises(RuntimeError, match="at once") as raised:
        time_steps(step, 2, CPU)
    assert finished_steps(raised.value) is None
    assert finished_steps(ValueError("of another place")) is None


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("was_on", [False, True])
def test_the_garbage_collector_rests_in_the_loop_only(fails: bool, was_on: bool) -> None:
    seen = []

    def step() -> None:
        seen.append(gc.isenabled())
        if fails:
            raise RuntimeError("in the step")

    before = gc.isenabled()
    (gc.enable if was_on else gc.disable)()
    try:
        if fails:
            with pytest.raises(RuntimeError):
                time_steps(step, 1, CPU)
        else:
            time_steps(step, 1, CPU)
        assert seen == [False]
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if before else gc.disable)()


def test_time_once_gives_result_and_time(clock: Clock) -> None:
    def work() -> str:
        clock.ns += 3_000_000
        return "done"

    assert time_once(work, CPU) == ("done", 3.0)


class FakeCuda:
    """Stands for torch.cuda: a device whose step takes 2 ms, and a log of what was asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.now_ms = 0.0
        self.lost = False
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.ms = -1.0

            def record(self, stream: object) -> None:
                assert stream == "current stream"
                self.ms = cuda.now_ms
                cuda.log.append("record")

            def synchronize(self) -> None:
                cuda.log.append("wait")
                if cuda.lost:
                    raise RuntimeError("CUDA error: device lost")

            def elapsed_time(self, after: "Event") -> float:
                return after.ms - self.ms

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "current stream")
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: self.log.append("synchronize"))

    def step(self) -> None:
        self.log.append("step")
        self.now_ms += 2.0


def test_cuda_loop_only_steps_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    timer = StepTimer(3, CUDA)
    cuda.log.clear()
    times = timer.time_steps(cuda.step)
    assert cuda.log == ["synchronize", "record", *["step", "record"] * 3, "wait"]
    np.testing.assert_array_equal(times.step_ms, [2.0, 2.0, 2.0])
    assert times.total_ms == 6.0
    assert times.complete


def test_cuda_interruption_waits_for_the_finished_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)

    def step() -> None:
        if cuda.now_ms == 4.0:
            raise torch.OutOfMemoryError("no memory")
        cuda.step()

    with pytest.raises(torch.OutOfMemoryError) as raised:
        time_steps(step, 5, CUDA)
    times = finished_steps(raised.value)
    assert times is not None
    assert times.step_ms.tolist() == [2.0, 2.0]


def test_a_lost_device_keeps_its_first_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)

    def step() -> None:
        cuda.lost = True
        raise RuntimeError("CUDA error: illegal memory access")

    with pytest.raises(RuntimeError, match="illegal memory access") as raised:
        time_steps(step, 2, CUDA)
    assert finished_steps(raised.value) is None

"""Times every step of a loop of steps without disturbing the loop.

On a GPU, a CUDA event is recorded before the first step and after every step, on the current stream. Nothing waits for
the device until the last step has been issued. On a CPU, the clock is read at the same points.
"""

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

T = TypeVar("T")

_FINISHED = "_ttt_finished_steps"  # attribute of an exception with the finished steps of the pass that it ended


@dataclass(frozen=True, eq=False)
class StepTimes:
    """The times of one pass, which is a loop of steps.

    step_ms: [finished steps] float64, device time of each step.
    total_ms: device time from before the first step to after the last finished step.
    wall_ms: host time from before the first step until the device had finished the last one.
    complete: whether all requested steps finished.
    """

    step_ms: np.ndarray
    total_ms: float
    wall_ms: float
    complete: bool


class StepTimer:
    """Times passes of ``n`` steps on ``device``. Its events are created once, outside every measurement."""

    def __init__(self, n: int, device: torch.device) -> None:
        if n < 1:
            raise ValueError(f"a pass must have at least one step, not {n}")
        self.n = n
        self._marks: _Marks = _CudaMarks(n, device) if device.type == "cuda" else _HostMarks(n)

    def time_steps(self, step: Callable[[], object]) -> StepTimes:
        """Call ``step`` n times and time each call.

        Python's garbage collector is off during the loop, as in :mod:`timeit`. An exception that ends the loop early (a
        signal, out of memory) is passed on with the finished steps: :func:`finished_steps`.
        """
        marks, n, done = self._marks, self.n, 0
        collecting = gc.isenabled()
        marks.start()
        gc.disable()
        began = time.perf_counter_ns()
        try:
            marks.record(0)
            for done in range(n):
                step()
                marks.record(done + 1)
            done = n
            return self._times(done, began)
        except BaseException as error:
            # a lost device cannot report what it finished
            with contextlib.suppress(RuntimeError):
                error.__dict__[_FINISHED] = self._times(done, began)
            raise
        finally:
            if collecting:
                gc.enable()

    def _times(self, done: int, began: int) -> StepTimes:
        """Wait for the first ``done`` steps and return their times."""
        self._marks.wait(done)
        wall_ms = (time.perf_counter_ns() - began) / 1e6
        step_ms = self._marks.step_ms(done)
        total_ms = self._marks.total_ms(done)
        return StepTimes(step_ms=step_ms, total_ms=total_ms, wall_ms=wall_ms, complete=done == self.n)


def time_steps(step: Callable[[], object], n: int, device: torch.device) -> StepTimes:
    """Time one pass of ``n`` steps. For several passes, keep a :class:`StepTimer`."""
    return StepTimer(n, device).time_steps(step)


def time_once(fn: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Call ``fn`` once. Returns its result and its device time in ms."""
    results: list[T] = []
    times = time_steps(lambda: results.append(fn()), 1, device)
    return results[0], times.total_ms


def finished_steps(error: BaseException) -> StepTimes | None:
    """The steps that had finished when ``error`` ended a timed pass; None if there are none."""
    times: StepTimes | None = error.__dict__.get(_FINISHED)
    return times if times is not None and len(times.step_ms) else None


class _Marks(Protocol):
    """Points in time: before the first step (index 0) and after each step (1 … n)."""

    def start(self) -> None: ...

    def record(self, index: int) -> None: ...

    def wait(self, index: int) -> None: ...

    def step_ms(self, done: int) -> np.ndarray: ...

    def total_ms(self, done: int) -> float: ...


class _HostMarks:
    def __init__(self, n: int) -> None:
        self.stamps = [0] * (n + 1)  # ns

    def start(self) -> None:
        """On a CPU, nothing is pending."""

    def record(self, index: int) -> None:
        self.stamps[index] = time.perf_counter_ns()

    def wait(self, index: int) -> None:
        """On a CPU, a step has finished when it returns."""

    def step_ms(self, done: int) -> np.ndarray:
        return np.diff(np.array(self.stamps[: done + 1], dtype=np.int64)) / 1e6

    def total_ms(self, done: int) -> float:
        return (self.stamps[done] - self.stamps[0]) / 1e6


class _CudaMarks:
    def __init__(self, n: int, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.current_stream(device)
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(n + 1)]
        # PyTorch creates a CUDA event at its first recording
        for event in self.events:
            event.record(self.stream)
        torch.cuda.synchronize(device)

    def start(self) -> None:
        self.stream = torch.cuda.current_stream(self.device)
        torch.cuda.synchronize(self.device)

    def record(self, index: int) -> None:
        self.events[index].record(self.stream)

    def wait(self, index: int) -> None:
        self.events[index].synchronize()

    def step_ms(self, done: int) -> np.ndarray:
        pairs = zip(self.events[:done], self.events[1 : done + 1], strict=True)
        return np.array([before.elapsed_time(after) for before, after in pairs], dtype=np.float64)

    def total_ms(self, done: int) -> float:
        return float(self.events[0].elapsed_time(self.events[done])) if done else 0.0

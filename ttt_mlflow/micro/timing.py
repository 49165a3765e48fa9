"""Times one decode step, the mean over a mini-batch, or one prompt, with data from memory instead of a cache.

On a GPU, a CUDA graph of a whole mini-batch is replayed. For each position, it has one launch for each of several
copies of the inputs. There are so many copies that the data of one copy has left the L2 before its next step. What
costs the same at every position, such as a matrix product, has one launch for each copy. A prompt takes long enough to
be called from Python, once for each copy. On a CPU, the same calls on one copy are timed by the clock.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttt_mlflow.errors import RunFailed
from ttt_mlflow.measurement.timing import StepTimer, time_once
from ttt_mlflow.micro.entry import Step
from ttt_mlflow.micro.task import Inputs, Task, make_positions
from ttt_mlflow.models.graph_capture import captured, warm_stream

L2_SIZES = 4  # size of all copies together, in L2 sizes
FREE_SHARE = 0.85  # share of the free memory that several copies may use
# do_bench clears the L2 before a sample, and the L2 writes that data back to memory during the sample. This traffic is
# negligible in a sample that moves this many times the L2's size or, for a slow kernel, that takes this long.
SAMPLE_L2_SIZES = 256
SAMPLE_MS = 10.0
WARMUP_SHARE = 0.25  # of the timed seconds
LEAST_WARMUP_MS = 25.0
LEAST_SAMPLES_CPU = 3


@dataclass(frozen=True)
class Timing:
    """us: [samples] microseconds per step or prompt, each the mean over ``launches`` launches."""

    us: np.ndarray
    launches: int
    copies: int


def copies_for(task: Task, l2_bytes: int, free_bytes: int) -> int:
    """The number of copies of the inputs: at least two, so that no launch needs the output of the launch before it.

    One if two do not fit into the memory. One copy is then far larger than the L2.
    """
    wanted = min(task.most_copies, max(2, math.ceil(L2_SIZES * l2_bytes / task.floor_bytes)))
    return wanted if wanted * task.copy_bytes <= FREE_SHARE * free_bytes else 1


def replays_for(replay_bytes: float, replay_ms: float, l2_bytes: int) -> int:
    """The number of replays in a sample, so that the L2's own writes are negligible, by bytes or by time."""
    by_bytes, by_time = SAMPLE_L2_SIZES * l2_bytes / replay_bytes, SAMPLE_MS / replay_ms
    return max(1, math.ceil(min(by_bytes, by_time)))


def l2_bytes(device: torch.device) -> int:
    """The size of the GPU's L2 in bytes."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def free_bytes(device: torch.device) -> int:
    """Device memory that can be allocated, including unused memory in PyTorch's allocator."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def run_calls(step: Step, copies: Sequence[Inputs], positions: Sequence[Tensor]) -> list[Any]:
    """Each call for each copy: a mini-batch of decode steps, or a prompt. Returns the outputs, each in its own memory.

    ``positions``: those of :func:`make_positions`.
    """
    return [step(*inputs.arguments(call, positions)) for call in range(copies[0].calls) for inputs in copies]


def time_on_gpu(
    step: Step, task: Task, copies: Sequence[Inputs], seconds: float, on_section: Callable[[str], object]
) -> Timing:
    """Repeat all calls for about ``seconds``. Calls ``on_section`` with "begin" and "end" around it.

    A mini-batch of decode steps is a graph. Raises :class:`RunFailed` for a step that cannot be captured.
    """
    from triton.testing import do_bench

    device = copies[0].device
    positions = make_positions(device)
    if task.mode == "decode":
        replay: Callable[[], object] = _capture(step, copies, positions).replay
    else:
        replay = partial(run_calls, step, copies, positions)
    launches = len(task.calls) * len(copies)
    replay()  # the first replay uploads the graph; the first call with this batch may compile
    _, replay_ms = time_once(replay, device)
    replays = replays_for(launches * task.floor_bytes, replay_ms, l2_bytes(device))

    def sample() -> None:
        for _ in range(replays):
            replay()

    timed_ms = 1e3 * seconds
    on_section("begin")
    try:
        warmup_ms = max(LEAST_WARMUP_MS, WARMUP_SHARE * timed_ms)
        milliseconds = do_bench(sample, warmup=warmup_ms, rep=timed_ms, return_mode="all")
    finally:
        on_section("end")
    return Timing(1e3 * np.array(milliseconds) / (launches * replays), launches * replays, len(copies))


def time_on_cpu(step: Step, copies: Sequence[Inputs], seconds: float, on_section: Callable[[str], object]) -> Timing:
    """Repeat all calls for about ``seconds``. ``on_section``: as for :func:`time_on_gpu`."""
    device = copies[0].device
    positions = make_positions(device)

    def sample() -> None:
        run_calls(step, copies, positions)

    estimate_s = StepTimer(1, device).time_steps(sample).total_ms / 1e3  # the first call, which also warms up
    warm = max(1, round(WARMUP_SHARE * seconds / estimate_s))
    estimate_s = StepTimer(warm, device).time_steps(sample).total_ms / 1e3 / warm
    timer = StepTimer(max(LEAST_SAMPLES_CPU, round(seconds / estimate_s)), device)
    on_section("begin")
    try:
        times = timer.time_steps(sample)
    finally:
        on_section("end")
    launches = copies[0].calls * len(copies)
    return Timing(1e3 * times.step_ms / launches, launches, len(copies))


def _capture(step: Step, copies: Sequence[Inputs], positions: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
    """A graph of all calls over the copies."""

    def warm_up() -> None:
        run_calls(step, copies[:1], positions)  # a fold needs all positions before it

    stream = warm_stream(positions[0].device, warm_up)
    try:
        with captured(stream) as graph:
            outputs = run_calls(step, copies, positions)
    except RuntimeError as error:
        if interruption := _interruption(error):
            raise interruption from None
        said = " ".join(str(error).split())[:300]
        raise RunFailed(f"the step cannot be captured in a CUDA graph, which the timing needs: {said}") from error
    del outputs  # the graph owns their memory
    return graph


def _interruption(error: BaseException | None) -> BaseException | None:
    """The signal or interrupt that ended a capture, if any. The end of the capture may raise another error over it."""
    while isinstance(error, Exception):
        error = error.__context__
    return error

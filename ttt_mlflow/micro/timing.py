"""The time of one decode step: the mean over a mini-batch, from memory and not from a cache.

On a GPU a CUDA graph of a whole mini-batch is replayed: for each position, one launch for each of several copies of the
inputs, so many that what one step reads is no longer in the L2 when its copy's turn comes again. On a CPU the same
mini-batch of one copy is called and timed by the clock.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttt_mlflow.errors import RunFailed
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.measurement.timing import StepTimer, time_once
from ttt_mlflow.micro.inputs import StepInputs, StepShape, make_positions
from ttt_mlflow.micro.registry import Step
from ttt_mlflow.models.graph_capture import captured, warm_stream

L2_SIZES = 4  # the copies' bytes together, in L2 sizes
MOST_COPIES = 128  # launches of a graph cost time and memory of their own
FREE_SHARE = 0.85  # of the free memory that several copies may take
# do_bench clears the L2 before a sample, and what it wrote there goes out to memory during the sample. That is lost in
# a sample that moves so many times the L2's size, or, of a slow kernel, that takes so long.
SAMPLE_L2_SIZES = 256
SAMPLE_MS = 10.0
WARMUP_SHARE = 0.25  # of the timed seconds
LEAST_WARMUP_MS = 25.0
LEAST_SAMPLES_CPU = 3


@dataclass(frozen=True)
class Timing:
    """us: [samples] microseconds a step, each the mean over ``launches`` launches."""

    us: np.ndarray
    launches: int
    copies: int


def copies_for(shape: StepShape, l2_bytes: int, free_bytes: int) -> int:
    """How many copies of the inputs to time with: two at least, so that no launch needs what the one before it wrote.

    One where two do not fit, which is then far above the L2.
    """
    wanted = min(MOST_COPIES, max(2, math.ceil(L2_SIZES * l2_bytes / shape.floor_bytes)))
    return wanted if wanted * shape.copy_bytes <= FREE_SHARE * free_bytes else 1


def replays_for(replay_bytes: float, replay_ms: float, l2_bytes: int) -> int:
    """How many replays make a sample: as many as outweigh the L2's own writes, by bytes or by time."""
    by_bytes, by_time = SAMPLE_L2_SIZES * l2_bytes / replay_bytes, SAMPLE_MS / replay_ms
    return max(1, math.ceil(min(by_bytes, by_time)))


def l2_bytes(device: torch.device) -> int:
    """The size of the GPU's L2."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def free_bytes(device: torch.device) -> int:
    """Device memory that can still be allocated, what PyTorch's allocator holds unused included."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def mini_batch(step: Step, copies: Sequence[StepInputs], positions: Sequence[Tensor]) -> list[Tensor]:
    """One step a position and copy, copy after copy; the outputs, each in memory of its own."""
    return [step(*inputs.arguments(token, position)) for token, position in enumerate(positions) for inputs in copies]


def time_on_gpu(
    step: Step, shape: StepShape, copies: Sequence[StepInputs], seconds: float, on_section: Callable[[str], object]
) -> Timing:
    """Replay a graph of a mini-batch for about ``seconds``; ``on_section`` hears "begin" and "end" around it.

    Raises :class:`RunFailed` for a step that cannot be captured.
    """
    from triton.testing import do_bench

    device = copies[0].eta.device
    graph = _capture(step, copies, make_positions(device))
    launches = MINI_BATCH * len(copies)
    graph.replay()  # the first one uploads it
    _, replay_ms = time_once(graph.replay, device)
    replays = replays_for(launches * shape.floor_bytes, replay_ms, l2_bytes(device))

    def sample() -> None:
        for _ in range(replays):
            graph.replay()

    timed_ms = 1e3 * seconds
    on_section("begin")
    try:
        warmup_ms = max(LEAST_WARMUP_MS, WARMUP_SHARE * timed_ms)
        milliseconds = do_bench(sample, warmup=warmup_ms, rep=timed_ms, return_mode="all")
    finally:
        on_section("end")
    return Timing(1e3 * np.array(milliseconds) / (launches * replays), launches * replays, len(copies))


def time_on_cpu(
    step: Step, copies: Sequence[StepInputs], seconds: float, on_section: Callable[[str], object]
) -> Timing:
    """Call a mini-batch again and again for about ``seconds``; ``on_section`` as for :func:`time_on_gpu`."""
    device = copies[0].eta.device
    positions = make_positions(device)

    def sample() -> None:
        mini_batch(step, copies, positions)

    estimate_s = StepTimer(1, device).time_steps(sample).total_ms / 1e3  # the first call, its warm-up
    warm = max(1, round(WARMUP_SHARE * seconds / estimate_s))
    estimate_s = StepTimer(warm, device).time_steps(sample).total_ms / 1e3 / warm
    timer = StepTimer(max(LEAST_SAMPLES_CPU, round(seconds / estimate_s)), device)
    on_section("begin")
    try:
        times = timer.time_steps(sample)
    finally:
        on_section("end")
    launches = MINI_BATCH * len(copies)
    return Timing(1e3 * times.step_ms / launches, launches, len(copies))


def _capture(step: Step, copies: Sequence[StepInputs], positions: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
    """A graph of one mini-batch over the copies."""

    def warm_up() -> None:
        mini_batch(step, copies[:1], positions)  # a fold needs all positions before it

    stream = warm_stream(positions[0].device, warm_up)
    try:
        with captured(stream) as graph:
            outputs = mini_batch(step, copies, positions)
    except RuntimeError as error:
        if interruption := _interruption(error):
            raise interruption from None
        said = " ".join(str(error).split())[:300]
        raise RunFailed(f"cannot be captured in a CUDA graph, which is how kernels are timed: {said}") from error
    del outputs  # their memory is the graph's
    return graph


def _interruption(error: BaseException | None) -> BaseException | None:
    """What ended a capture, if it was no failure: the capture's own end may then raise an error over it."""
    while isinstance(error, Exception):
        error = error.__context__
    return error

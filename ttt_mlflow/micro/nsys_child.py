"""The process that a profiler records: a mini-batch of each kernel and batch, launch by launch.

``python -m ttt_mlflow.micro.nsys_child JSON``, with a :class:`Plan`. Everything is made and compiled before the
recording begins, so that it holds the kernels and little else.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import BaseModel
from torch import Tensor

from ttt_mlflow.config import MicroConfig
from ttt_mlflow.micro.inputs import RandomSource, Source, StepInputs, StepShape, make_inputs, make_positions
from ttt_mlflow.micro.plan import ResolvedMicro, resolve
from ttt_mlflow.micro.registry import Step
from ttt_mlflow.micro.timing import mini_batch
from ttt_mlflow.profilers.process import end_with_the_run

LARGE_BYTES = 4 << 20
ALIGNED = 256  # bytes, as PyTorch's allocator aligns


class Plan(BaseModel):
    """What to run: the configuration, and which of its kernels with which batches."""

    config: MicroConfig
    cells: list[tuple[str, int]]


class Arena(Source):
    """Inputs of one cell whose large tensors lie in memory that all cells share: one at a time is run.

    Their content is what was there: any numbers will do, since nothing reads the results.
    """

    def __init__(self, memory: Tensor, small: Source) -> None:
        self._memory, self._small, self._used = memory, small, 0

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return self._take(shape, dtype) if _is_large(shape, dtype) else self._small.normal(shape, dtype, std, mean)

    def poisoned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self._take(shape, dtype) if _is_large(shape, dtype) else self._small.poisoned(shape, dtype)

    def _take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = _bytes(shape, dtype)
        begin, self._used = self._used, self._used + -(-size // ALIGNED) * ALIGNED
        return self._memory[begin : begin + size].view(dtype).view(shape)


def main(text: str) -> None:
    plan = Plan.model_validate_json(text)
    resolved = resolve(plan.config)
    on_gpu = resolved.device.type == "cuda"
    shapes = {cell: _shape(resolved, *cell) for cell in plan.cells}
    random = RandomSource(resolved.used.seed, resolved.device)
    alignment = LARGE_BYTES  # more than enough for a few dozen tensors
    largest = max(shape.copy_bytes for shape in shapes.values()) + alignment
    memory = random.normal((largest // 2,), torch.float16, std=0.02).view(torch.uint8)
    inputs = {cell: make_inputs(shape, Arena(memory, random)) for cell, shape in shapes.items()}
    steps = {entry.name: entry.load() for entry in resolved.entries}
    positions = make_positions(resolved.device)
    for (kernel, _), one in inputs.items():
        mini_batch(steps[kernel], [one], positions)
    _record(steps, inputs, positions, on_gpu)


def _record(
    steps: dict[str, Step], inputs: dict[tuple[str, int], StepInputs], positions: list[Tensor], on_gpu: bool
) -> None:
    with _recording(on_gpu):
        for (kernel, batch), one in inputs.items():
            with _range(f"{kernel} batch {batch}", on_gpu):
                mini_batch(steps[kernel], [one], positions)
                if on_gpu:
                    torch.cuda.synchronize()
    print(f"ran a mini-batch of {', '.join(f'{kernel} batch {batch}' for kernel, batch in inputs)}")


@contextmanager
def _recording(on_gpu: bool) -> Iterator[None]:
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
    yield
    if on_gpu:
        torch.cuda.profiler.stop()


@contextmanager
def _range(name: str, on_gpu: bool) -> Iterator[None]:
    """A named range in the report's timeline."""
    if on_gpu:
        torch.cuda.nvtx.range_push(name)
    yield
    if on_gpu:
        torch.cuda.nvtx.range_pop()


def _shape(resolved: ResolvedMicro, kernel: str, batch: int) -> StepShape:
    entry = next(entry for entry in resolved.entries if entry.name == kernel)
    return StepShape(entry.layer_type, entry.form, batch, resolved.used.heads, resolved.used.head_dim, resolved.dtype)


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _is_large(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return _bytes(shape, dtype) >= LARGE_BYTES


if __name__ == "__main__":
    end_with_the_run()
    main(sys.argv[1])

"""The process that a profiler records: it runs a mini-batch, or a prompt, of each kernel and batch.

``python -m ttt_mlflow.micro.nsys_child JSON``, with an :class:`Order`. Everything is allocated and compiled before the
recording begins, so that the recording contains almost only the kernels.
"""

import sys
from contextlib import nullcontext

import torch
from pydantic import BaseModel
from torch import Tensor

from ttt_mlflow.config import MicroConfig
from ttt_mlflow.micro.entry import Step
from ttt_mlflow.micro.plan import make_plan
from ttt_mlflow.micro.task import Inputs, RandomSource, Source, make_positions
from ttt_mlflow.micro.timing import run_calls
from ttt_mlflow.profilers.process import end_with_the_run, recorded
from ttt_mlflow.workload import nvtx

LARGE_BYTES = 4 << 20
ALIGNED = 256  # bytes, the alignment of PyTorch's allocator


class Order(BaseModel):
    """What to run: the configuration, and its kernels with their batches."""

    config: MicroConfig
    cells: list[tuple[str, int]]


class Arena(Source):
    """The inputs of one cell. Large tensors use memory that all cells share, because the cells run one at a time.

    This memory is not initialized. Any values are acceptable, because nothing reads the results.
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
    order = Order.model_validate_json(text)
    plan = make_plan(order.config)
    on_gpu = plan.device.type == "cuda"
    entries = {entry.name: entry for entry in plan.entries}
    tasks = {(kernel, batch): plan.task(entries[kernel], batch) for kernel, batch in order.cells}
    random = RandomSource(plan.used.seed, plan.device)
    alignment = LARGE_BYTES  # more than enough for a few dozen tensors
    largest = max(task.copy_bytes for task in tasks.values()) + alignment
    memory = random.normal((largest // 2,), torch.float16, std=0.02).view(torch.uint8)
    inputs = {cell: task.inputs(Arena(memory, random)) for cell, task in tasks.items()}
    steps = {name: entry.load() for name, entry in entries.items()}
    positions = make_positions(plan.device)
    for (kernel, _), one in inputs.items():
        run_calls(steps[kernel], [one], positions)
    _record(steps, inputs, positions, on_gpu)


def _record(
    steps: dict[str, Step], inputs: dict[tuple[str, int], Inputs], positions: list[Tensor], on_gpu: bool
) -> None:
    with recorded(on_gpu):
        for (kernel, batch), one in inputs.items():
            with nvtx(f"{kernel} batch {batch}") if on_gpu else nullcontext():
                run_calls(steps[kernel], [one], positions)
                if on_gpu:
                    torch.cuda.synchronize()
    print(f"ran a mini-batch or a prompt of {', '.join(f'{kernel} batch {batch}' for kernel, batch in inputs)}")


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _is_large(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return _bytes(shape, dtype) >= LARGE_BYTES


if __name__ == "__main__":
    end_with_the_run()
    main(sys.argv[1])

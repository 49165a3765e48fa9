"""Measures the ceilings of a GPU: read bandwidth, copy bandwidth and matrix rate."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

GIB = 1 << 30
BUFFER_BYTES = 2 * GIB
MATRIX = 8192
READ_SHAPES = ((8192, 8), (16384, 8), (16384, 16))  # int32 values per program, and the program's warps
WARMUP_MS, TIMED_MS = 100, 300
# The benchmark clears the L2 before each sample. During the sample, the L2 writes that data back to memory. With
# several launches per sample, this traffic is small.
LAUNCHES = 8


@dataclass(frozen=True)
class GpuCeilings:
    """Measured medians of one GPU. GB are 10^9 bytes, TFLOP/s are 10^12 operations per second."""

    read_gb_per_s: float  # a read-only stream
    copy_gb_per_s: float  # device to device, read and written bytes together
    matmul_tflops: float  # product of fp16 matrices of 8192 x 8192


def measure_ceilings(device: torch.device) -> GpuCeilings:
    """Measure ``device``, a GPU. This takes about four seconds, and 4 GiB of its memory or half of the free memory."""
    free, _ = torch.cuda.mem_get_info(device)
    largest_block = max(block for block, _ in READ_SHAPES)
    values = min(BUFFER_BYTES, free // 4) // 4 // largest_block * largest_block
    source = torch.randint(-(2**31), 2**31 - 1, (values,), dtype=torch.int32, device=device)
    return GpuCeilings(
        read_gb_per_s=_read_gb_per_s(source),
        copy_gb_per_s=_copy_gb_per_s(source),
        matmul_tflops=_matmul_tflops(device),
    )


def _seconds(launch: Callable[[], object]) -> float:
    """The median time of one launch."""
    from triton.testing import do_bench

    def launches() -> None:
        for _ in range(LAUNCHES):
            launch()

    return float(do_bench(launches, warmup=WARMUP_MS, rep=TIMED_MS, return_mode="median")) / 1e3 / LAUNCHES


def _read_gb_per_s(source: torch.Tensor) -> float:
    """The best of a few shapes. Which shape is fastest depends on the architecture."""
    from ttt_mlflow.kernels.stream import block_sums

    def seconds(block: int, num_warps: int) -> float:
        sums = torch.empty(source.numel() // block, dtype=torch.int32, device=source.device)
        return _seconds(lambda: block_sums(source, sums, block, num_warps))

    return source.nbytes / 1e9 / min(seconds(*shape) for shape in READ_SHAPES)


def _copy_gb_per_s(source: torch.Tensor) -> float:
    target = torch.empty_like(source)
    return 2 * source.nbytes / 1e9 / _seconds(lambda: target.copy_(source))


def _matmul_tflops(device: torch.device) -> float:
    left, right = (torch.randn(MATRIX, MATRIX, dtype=torch.float16, device=device) for _ in range(2))
    product = torch.empty_like(left)
    return 2 * MATRIX**3 / 1e12 / _seconds(lambda: torch.mm(left, right, out=product))

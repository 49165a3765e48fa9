"""A kernel that only reads memory. It measures the ceiling for kernels that mostly read state.

Twin: ``x.view(-1, block).sum(1)``. One program sums one block of ``block`` int32 values and stores the sum, so that the
compiler cannot remove the loads. A load has 16 bytes, and each thread has several loads in flight. With 32 registers
per thread, a multiprocessor has its maximum number of programs. Bytes: 4 per value read, 4 per block written.
Limits: the number of values is a multiple of ``block``, which is a power of two.
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def block_sums_kernel(x, sums, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    values = tl.load(x + program * BLOCK + tl.arange(0, BLOCK))
    tl.store(sums + program, tl.sum(values, 0))


def block_sums(x: Tensor, sums: Tensor, block: int, num_warps: int) -> None:
    """Sum each block of x [n] int32 into sums [n / block] int32; the sums wrap around."""
    if x.numel() != block * sums.numel():
        raise ValueError(f"x has {x.numel()} values, expected {sums.numel()} blocks of {block}")
    block_sums_kernel[(sums.numel(),)](x, sums, block, num_warps=num_warps)

"""Reads memory and nothing else: the ceiling for kernels that mostly read state.

Twin: ``x.view(-1, block).sum(1)``. One program sums one block of ``block`` int32 values, 16 bytes a load and several
loads of a thread in flight at a time, and stores the sum, so that the compiler cannot leave the loads out. At 32
registers a thread a multiprocessor is full of programs. Bytes: 4 a value read, 4 a block written.
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

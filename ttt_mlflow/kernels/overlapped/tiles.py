"""Tiles of a large weight, which go from memory straight into the tensor cores' registers, and what becomes of them.

y [B, N] = x [B, K] Wᵀ for W [N, K] row-major, B ≤ 16. A tile is 16 rows of W times SPAN columns. The warps of a
program divide its columns and add their sums at the end, so that every warp's loads are in flight at once. Which
registers a tile has is known when the kernel is compiled, so nothing is moved between them.

Loads and tensor cores want different orders. A thread loads 16 bytes, eight neighboring columns of one row. As operands
of two instructions, it is to have, of 32 columns, four neighbors and the four that are sixteen further on. The order of
the columns is free as long as it is the same for W and x. So the columns are renamed: of five bits c4 c3 c2 c1 c0 that
number 32 columns, c2 c4 c3 c1 c0 number them for the product. A thread's 16 bytes then are its operands, and nothing
passes through shared memory or another thread. Triton compiles it so from 3.7 on (:func:`loads_operands`).
"""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor

ROWS = 16  # of W in a tile, as the tensor cores' instruction has
GROUP = 8  # columns that a thread loads at once: 16 bytes, which begin at a multiple of 16
LANE_COLUMNS = 32  # columns that a warp's lanes cover with 16-byte loads, eight rows at a time
DIRECT = (3, 7)  # first Triton whose tiles take the way above


@cache
def loads_operands() -> bool:
    """Whether tiles go from memory straight into the tensor cores' registers; older Tritons use shared memory."""
    major, minor = triton.__version__.split(".")[:2]
    return (int(major), int(minor)) >= DIRECT


@triton.jit
def as_pairs(x):
    """A pointer to elements of 16 bits as one to pairs of them. Tiles are held as pairs: a single element would take a
    whole register, and taking a pair apart waits until it has come."""
    return x.to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def unpacked(pairs, dtype: tl.constexpr):
    """Pairs [...] as elements [..., 2]."""
    low, high = pairs.to(tl.int16), (pairs >> 16).to(tl.int16)
    return tl.join(low.to(dtype, bitcast=True), high.to(dtype, bitcast=True))


@triton.jit
def load_tile(
    w, sixteen, start, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr, GATED: tl.constexpr,
    after=0,
):  # fmt: skip
    """Sixteen rows of W [N, K], SPAN columns from ``start`` on, as they lie in memory.

    K is a multiple of GROUP. Columns beyond it are zeros. GATED: rows 0 to 7 are of the first half of W, rows 8 to 15
    their partners in the second half. after: zeros in the shape of a tile. What they are computed from arrives before
    the tile is requested.
    """
    STEPS: tl.constexpr = SPAN // (32 * WARPS)
    half = tl.arange(0, 2)[:, None, None, None, None]
    step = tl.arange(0, STEPS)[None, :, None, None, None]
    warp = tl.arange(0, WARPS)[None, None, :, None, None]
    row = tl.arange(0, 8)[None, None, None, :, None]
    pair = tl.arange(0, 16)[None, None, None, None, :]
    rows = sixteen * 8 + row + half * (N // 2) if GATED else sixteen * 16 + row + half * 8
    pairs = start // 2 + (step * WARPS + warp) * 16 + pair
    place = as_pairs(w) + rows.to(tl.int64) * (K // 2) + (pairs + after)
    place = tl.max_contiguous(tl.multiple_of(place, (1, 1, 1, 1, 16)), (1, 1, 1, 1, 16))
    return tl.load(place, pairs < K // 2, 0, eviction_policy="evict_first")


@triton.jit
def as_left(tile, dtype: tl.constexpr, STEPS: tl.constexpr, WARPS: tl.constexpr):
    """A loaded tile as the left operand [WARPS, 16, STEPS · 32] of the tensor cores."""
    bits = unpacked(tl.reshape(tile, (2, STEPS, WARPS, 8, 4, 2, 2)), dtype)
    return tl.reshape(tl.permute(bits, (2, 0, 3, 1, 5, 4, 6, 7)), (WARPS, 16, STEPS * 32))


@triton.jit
def load_rows(x, stride, batch, start, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr, BATCH: tl.constexpr):
    """SPAN columns of x [B, K] from ``start`` on as the right operand [WARPS, SPAN / WARPS, BATCH]."""
    STEPS: tl.constexpr = SPAN // (32 * WARPS)
    eighth = tl.arange(0, BATCH // 8)[:, None, None, None, None]
    step = tl.arange(0, STEPS)[None, :, None, None, None]
    warp = tl.arange(0, WARPS)[None, None, :, None, None]
    row = tl.arange(0, 8)[None, None, None, :, None]
    pair = tl.arange(0, 16)[None, None, None, None, :]
    rows = eighth * 8 + row
    pairs = start // 2 + (step * WARPS + warp) * 16 + pair
    loaded = tl.load(as_pairs(x) + rows * (stride // 2) + pairs, (rows < batch) & (pairs < K // 2), 0)
    bits = unpacked(tl.reshape(loaded, (BATCH // 8, STEPS, WARPS, 8, 4, 2, 2)), x.dtype.element_ty)
    return tl.reshape(tl.permute(bits, (2, 1, 5, 4, 6, 7, 0, 3)), (WARPS, STEPS * 32, BATCH))


@triton.jit
def replaced(tiles, PLACE: tl.constexpr, tile):
    """The tiles with another one at PLACE."""
    return tiles[:PLACE] + (tile,) + tiles[PLACE + 1 :]  # noqa: RUF005 - Triton knows no starred expressions


@triton.jit
def best_of(values, indices):
    """values [...] float32 and indices [...] int32 in one int64, which is largest for the largest value, and among
    equal values for the smallest index."""
    bits = (values + 0.0).to(tl.int32, bitcast=True)  # no -0.0, whose bits are not those of 0.0
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - indices).to(tl.int64)


@triton.jit
def index_of(best):
    """The index of :func:`best_of`."""
    return 0x7FFFFFFF - (best & 0x7FFFFFFF)


def index_in(best: Tensor) -> Tensor:
    """The same for what a kernel has stored."""
    return 0x7FFFFFFF - (best & 0x7FFFFFFF)

"""Products of a few rows with a large weight, whose tiles go from memory straight into the tensor cores' registers.

y [B, N] = x [B, K] Wᵀ for W [N, K] row-major, B ≤ 16. A tile is 16 rows of W times BLOCK_K columns. The warps of a
program divide its columns and add their sums at the end, so that every warp's loads are in flight at once.

Loads and tensor cores want different orders. A thread loads 16 bytes, eight neighboring columns of one row. The
instruction wants, of every 16 columns, two neighbors and the two that are eight further on. The order of the columns is
free as long as it is the same for W and x. So the columns are renamed: of five bits c4 c3 c2 c1 c0 that number 32
columns, c2 c1 c4 c3 c0 number them for the product. A thread's 16 bytes then are its operands, and nothing passes
through shared memory.
"""

import triton
import triton.language as tl

ROWS = 16  # of W in a tile, as the tensor cores' instruction has
LANE_COLUMNS = 32  # columns that a warp's lanes cover with 16-byte loads, eight rows at a time


@triton.jit
def load_tile(
    w, tile, chunk, wanted, N: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """Tile number ``tile`` of W [N, K], columns from ``chunk`` · BLOCK_K on, as it lies in memory; zeros unless
    ``wanted``. GATED: rows 0 to 7 are of the first half of W, rows 8 to 15 their partners in the second half."""
    STEPS: tl.constexpr = BLOCK_K // (32 * WARPS)
    half = tl.arange(0, 2)[:, None, None, None, None]
    step = tl.arange(0, STEPS)[None, :, None, None, None]
    warp = tl.arange(0, WARPS)[None, None, :, None, None]
    row = tl.arange(0, 8)[None, None, None, :, None]
    column = tl.arange(0, 32)[None, None, None, None, :]
    rows = tile * 8 + row + half * (N // 2) if GATED else tile * 16 + row + half * 8
    columns = chunk * BLOCK_K + (step * WARPS + warp) * 32 + column
    return tl.load(
        w + rows.to(tl.int64) * K + columns, (columns < K) & wanted, 0.0, eviction_policy="evict_first"
    )  # fmt: skip


@triton.jit
def as_left(tile, STEPS: tl.constexpr, WARPS: tl.constexpr):
    """A loaded tile as the left operand [WARPS, 16, STEPS · 32] of the tensor cores."""
    bits = tl.permute(tl.reshape(tile, (2, STEPS, WARPS, 8, 4, 2, 2, 2)), (2, 0, 3, 1, 5, 6, 4, 7))
    return tl.reshape(bits, (WARPS, 16, STEPS * 32))


@triton.jit
def load_rows(
    x, stride, batch, chunk, K: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, BATCH: tl.constexpr
):
    """The columns of x [B, K] from ``chunk`` · BLOCK_K on as the right operand [WARPS, BLOCK_K / WARPS, BATCH]."""
    STEPS: tl.constexpr = BLOCK_K // (32 * WARPS)
    eighth = tl.arange(0, BATCH // 8)[:, None, None, None, None]
    step = tl.arange(0, STEPS)[None, :, None, None, None]
    warp = tl.arange(0, WARPS)[None, None, :, None, None]
    row = tl.arange(0, 8)[None, None, None, :, None]
    column = tl.arange(0, 32)[None, None, None, None, :]
    rows = eighth * 8 + row
    columns = chunk * BLOCK_K + (step * WARPS + warp) * 32 + column
    loaded = tl.load(x + rows * stride + columns, (rows < batch) & (columns < K), 0.0)
    bits = tl.permute(tl.reshape(loaded, (BATCH // 8, STEPS, WARPS, 8, 4, 2, 2, 2)), (2, 1, 5, 6, 4, 7, 0, 3))
    return tl.reshape(bits, (WARPS, STEPS * 32, BATCH))


@triton.jit
def first_tile(w, N: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, GATED: tl.constexpr):
    """The tile with which this program begins, to be requested before the rows of x are known."""
    return load_tile(w, tl.program_id(0), 0, tl.program_id(0) < N // 16, N, K, BLOCK_K, WARPS, GATED)


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


@triton.jit
def product(
    tile_ahead, x, stride, w, out, out_stride, batch, real_rows,
    N: tl.constexpr, K: tl.constexpr, BATCH: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr,
    GATED: tl.constexpr, BEST: tl.constexpr,
):  # fmt: skip
    """This program's tiles of out = x Wᵀ, rounded to out's dtype. ``tile_ahead``: of :func:`first_tile`.

    GATED: out [B, N / 2] = silu(gate) · up, of the first and the second half of W's rows, each rounded before.
    BEST: returns [BATCH] int64, the largest value of this program's first ``real_rows`` rows (:func:`best_of`).
    """
    TILES: tl.constexpr = N // 16
    CHUNKS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    STEPS: tl.constexpr = BLOCK_K // (32 * WARPS)
    program, programs = tl.program_id(0), tl.num_programs(0)
    sequences = tl.arange(0, BATCH)
    best = tl.full((BATCH,), -0x8000000000000000, tl.int64)
    rows = load_rows(x, stride, batch, 0, K, BLOCK_K, WARPS, BATCH)
    rows_ahead = rows
    sums = tl.zeros((WARPS, 16, BATCH), tl.float32)
    for index in range((TILES - program + programs - 1) // programs * CHUNKS):
        tile, chunk = program + index // CHUNKS * programs, index % CHUNKS
        tile_now, following = tile_ahead, index + 1
        next_tile = program + following // CHUNKS * programs
        if CHUNKS > 1:
            rows = rows_ahead
            rows_ahead = load_rows(x, stride, batch, following % CHUNKS, K, BLOCK_K, WARPS, BATCH)
        tile_ahead = load_tile(w, next_tile, following % CHUNKS, next_tile < TILES, N, K, BLOCK_K, WARPS, GATED)
        sums = tl.dot(as_left(tile_now, STEPS, WARPS), rows, sums)
        if chunk == CHUNKS - 1:
            rounded = tl.sum(sums, 0).to(out.dtype.element_ty)
            if GATED:
                halves = tl.permute(tl.reshape(rounded, (2, 8, BATCH)), (1, 2, 0))
                gate, up = tl.split(halves.to(tl.float32))
                columns = tile * 8 + tl.arange(0, 8)
                result = gate * tl.sigmoid(gate) * up
            else:
                columns = tile * 16 + tl.arange(0, 16)
                result = rounded
            place = sequences[None, :] * out_stride + columns[:, None]
            real = (columns < real_rows)[:, None]
            tl.store(out + place, result, (sequences < batch)[None, :] & real)
            if BEST:
                values = tl.where(real, rounded.to(tl.float32), -float("inf"))
                here = best_of(values, columns[:, None] + tl.zeros((16, BATCH), tl.int32))
                best = tl.maximum(best, tl.max(here, 0))
            sums = tl.zeros((WARPS, 16, BATCH), tl.float32)
    return best


@triton.jit
def request(w, rounds, N: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr):
    """Ask for this program's first ``rounds`` tiles of W [N, K] in the L2 cache, and wait for nothing.

    BLOCK: a power of two, at least the cache lines of 128 bytes that a row of W touches.
    """
    line = tl.arange(0, BLOCK)[None, :] * 64  # in elements of 16 bits
    for ahead in range(rounds):
        tile = tl.program_id(0) + ahead * tl.num_programs(0)
        row = tl.arange(0, 16)[:, None]
        rows = tile * 8 + row % 8 + row // 8 * (N // 2) if GATED else tile * 16 + row
        inside = (line < K) & (rows < N) & (tile < N // 16)
        address = w + tl.where(inside, rows.to(tl.int64) * K + line, 0)  # a line too often costs nothing
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address.to(tl.int64)], tl.int32, False, 1
        )

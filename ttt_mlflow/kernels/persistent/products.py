"""Products of a few rows with a large weight, whose tiles go from memory straight into the tensor cores' registers.

y [B, N] = x [B, K] Wᵀ for W [N, K] row-major, B ≤ 16. A tile is 16 rows of W times SPAN columns. The warps of a
program divide its columns and add their sums at the end, so that every warp's loads are in flight at once.

A program has AHEAD tiles on their way: as soon as one is multiplied, its registers are requested anew. With fewer, the
memory would pause whenever a tile has come and the next has not been asked for. Which registers a tile has is known
when the kernel is compiled, so nothing is moved between them.

Loads and tensor cores want different orders. A thread loads 16 bytes, eight neighboring columns of one row. As operands
of two instructions, it is to have, of 32 columns, four neighbors and the four that are sixteen further on. The order of
the columns is free as long as it is the same for W and x. So the columns are renamed: of five bits c4 c3 c2 c1 c0 that
number 32 columns, c2 c4 c3 c1 c0 number them for the product. A thread's 16 bytes then are its operands, and nothing
passes through shared memory or another thread.
"""

import triton
import triton.language as tl
from torch import Tensor

ROWS = 16  # of W in a tile, as the tensor cores' instruction has
LANE_COLUMNS = 32  # columns that a warp's lanes cover with 16-byte loads, eight rows at a time
AHEAD = 4  # tiles that a program has on their way


@triton.jit
def as_pairs(x):
    """A pointer to elements of 16 bits as one to pairs of them. What a loop hands on is loaded in pairs: a single
    element would take a whole register, and taking a pair apart waits until it has come."""
    return x.to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def unpacked(pairs, dtype: tl.constexpr):
    """Pairs [...] as elements [..., 2]."""
    low, high = pairs.to(tl.int16), (pairs >> 16).to(tl.int16)
    return tl.join(low.to(dtype, bitcast=True), high.to(dtype, bitcast=True))


@triton.jit
def load_tile(
    w, sixteen, row_wanted, start, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr,
    GATED: tl.constexpr, after=0,
):  # fmt: skip
    """Sixteen rows of W [N, K], SPAN columns from ``start`` on, as they lie in memory.

    GATED: rows 0 to 7 are of the first half of W, rows 8 to 15 their partners in the second half. row_wanted [8]: which
    of rows 0 to 7, and of rows 8 to 15, to load; the others are zeros. after: zeros in the shape of a tile. What they
    are computed from arrives before the tile is requested.
    """
    STEPS: tl.constexpr = SPAN // (32 * WARPS)
    half = tl.arange(0, 2)[:, None, None, None, None]
    step = tl.arange(0, STEPS)[None, :, None, None, None]
    warp = tl.arange(0, WARPS)[None, None, :, None, None]
    row = tl.arange(0, 8)[None, None, None, :, None]
    pair = tl.arange(0, 16)[None, None, None, None, :]
    rows = sixteen * 8 + row + half * (N // 2) if GATED else sixteen * 16 + row + half * 8
    pairs = start // 2 + (step * WARPS + warp) * 16 + pair
    wanted = (pairs < K // 2) & row_wanted[None, None, None, :, None]
    place = as_pairs(w) + rows.to(tl.int64) * (K // 2) + (pairs + after)
    place = tl.max_contiguous(tl.multiple_of(place, (1, 1, 1, 1, 16)), (1, 1, 1, 1, 16))
    return tl.load(place, wanted, 0, eviction_policy="evict_first")


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


@triton.constexpr_function
def left_over(n, grid):
    """Of n rows: sixteens that are left when every program of the grid has had as many as the others."""
    return n // 16 % grid


@triton.constexpr_function
def parts(n, grid):
    """Programs that share one of the sixteens that are left over, 1, 2, 4 or 8, so that few programs wait for them."""
    left = left_over(n, grid)
    return 1 if not left else max(part for part in (1, 2, 4, 8) if part == 1 or part * left <= grid)


@triton.jit
def share(round, N: tl.constexpr, GRID: tl.constexpr):
    """Which sixteen rows of N this program has in a round, and which of eight: the number, and [8] of bool.

    The grid's programs take the sixteens in turn. In the last round, PARTS programs share each of what is left.
    """
    FULL: tl.constexpr = N // 16 // GRID
    PARTS: tl.constexpr = parts(N, GRID)
    program, row = tl.program_id(0), tl.arange(0, 8)
    if PARTS == 1:
        sixteen = program + round * GRID
        return sixteen, (row >= 0) & (sixteen < N // 16)
    last = round == FULL
    sixteen = tl.where(last, FULL * GRID + program // PARTS, program + round * GRID)
    mine = row // (8 // PARTS) == program % PARTS
    return sixteen, (round < FULL) | (last & mine & (program < left_over(N, GRID) * PARTS))


@triton.jit
def load_turn(
    w, first, TURN: tl.constexpr, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr,
    GATED: tl.constexpr, GRID: tl.constexpr,
):  # fmt: skip
    """This program's tile, TURN turns after round ``first`` began; zeros after the last."""
    sixteen, row_wanted = share(first + TURN // turns(K, SPAN), N, GRID)
    return load_tile(w, sixteen, row_wanted, TURN % turns(K, SPAN) * SPAN, N, K, SPAN, WARPS, GATED)


@triton.constexpr_function
def ahead():
    """AHEAD, for kernels."""
    return AHEAD


@triton.constexpr_function
def turns(k, span):
    """Tiles of 16 rows of W: as many as divide AHEAD, or a multiple of it; the last ones may be empty."""
    needed = -(-k // span)
    return 1 if needed == 1 else 2 if needed == 2 else -(-needed // AHEAD) * AHEAD


@triton.jit
def first_tiles(
    w, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr, GATED: tl.constexpr,
    EARLY: tl.constexpr, GRID: tl.constexpr,
):  # fmt: skip
    """The tiles with which this program begins, to be requested before it waits for the rows of x: EARLY, two or four.

    What is requested before a program waits arrives before the others' answer does. After two, :func:`all_tiles`.
    """
    first = (load_turn(w, 0, 0, N, K, SPAN, WARPS, GATED, GRID), load_turn(w, 0, 1, N, K, SPAN, WARPS, GATED, GRID))
    return first + other_tiles(w, N, K, SPAN, WARPS, GATED, GRID) if EARLY > 2 else first


@triton.jit
def all_tiles(
    tiles, w, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr, GATED: tl.constexpr,
    EARLY: tl.constexpr, GRID: tl.constexpr,
):  # fmt: skip
    """The tiles of :func:`first_tiles`, and those that it left out, to be requested after what is waited for."""
    return tiles + other_tiles(w, N, K, SPAN, WARPS, GATED, GRID) if EARLY == 2 else tiles


@triton.jit
def other_tiles(
    w, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr, GATED: tl.constexpr,
    GRID: tl.constexpr,
):  # fmt: skip
    """The tiles that follow the first two."""
    return load_turn(w, 0, 2, N, K, SPAN, WARPS, GATED, GRID), load_turn(w, 0, 3, N, K, SPAN, WARPS, GATED, GRID)


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


@triton.jit
def product(
    tiles, x, stride, w, out, out_stride, batch, real_rows,
    N: tl.constexpr, K: tl.constexpr, BATCH: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr,
    GATED: tl.constexpr, BEST: tl.constexpr, GRID: tl.constexpr,
):  # fmt: skip
    """This program's rows of out = x Wᵀ, rounded to out's dtype. tiles: of :func:`all_tiles`.

    GATED: out [B, N / 2] = silu(gate) · up, of the first and the second half of W's rows, each rounded before.
    BEST: returns [BATCH] int64, the largest value of this program's first ``real_rows`` rows (:func:`best_of`).
    """
    TURNS: tl.constexpr = turns(K, SPAN)
    STEPS: tl.constexpr = SPAN // (32 * WARPS)
    COUNT: tl.constexpr = ahead()
    TOGETHER: tl.constexpr = COUNT // TURNS if TURNS < COUNT else 1  # sixteens of rows in a round of the loop
    HELD: tl.constexpr = TURNS <= COUNT  # x stays in registers; else its columns are loaded anew in each turn
    FULL: tl.constexpr = N // 16 // GRID
    sequences = tl.arange(0, BATCH)
    best = tl.full((16, BATCH), -0x8000000000000000, tl.int64)
    rows = (load_rows(x, stride, batch, 0, K, SPAN, WARPS, BATCH),)
    if HELD and TURNS > 1:
        rows = rows + (load_rows(x, stride, batch, SPAN, K, SPAN, WARPS, BATCH),)  # noqa: RUF005 - as above
    if HELD and TURNS > 2:
        third = load_rows(x, stride, batch, 2 * SPAN, K, SPAN, WARPS, BATCH)
        rows = rows + (third, load_rows(x, stride, batch, 3 * SPAN, K, SPAN, WARPS, BATCH))  # noqa: RUF005 - as above
    mine = FULL + (tl.program_id(0) < left_over(N, GRID) * parts(N, GRID)).to(tl.int32)
    # one stage: Triton's own pipeline would take the tiles through shared memory
    for group in tl.range(0, (mine + TOGETHER - 1) // TOGETHER, num_stages=1):
        for part in tl.static_range(TOGETHER):
            sixteen, row_wanted = share(group * TOGETHER + part, N, GRID)
            sums = tl.zeros((WARPS, 16, BATCH), tl.float32)
            for turn in tl.static_range(TURNS):
                now = rows[turn if HELD else 0]
                if not HELD:
                    rows = (load_rows(x, stride, batch, (turn + 1) % TURNS * SPAN, K, SPAN, WARPS, BATCH),)
                sums = tl.dot(
                    as_left(tiles[(part * TURNS + turn) % COUNT], x.dtype.element_ty, STEPS, WARPS), now, sums
                )
                following = load_turn(
                    w, group * TOGETHER, part * TURNS + turn + COUNT, N, K, SPAN, WARPS, GATED, GRID
                )  # fmt: skip
                tiles = replaced(tiles, (part * TURNS + turn) % COUNT, following)
            rounded = tl.sum(sums, 0).to(out.dtype.element_ty)
            if GATED:
                halves = tl.permute(tl.reshape(rounded, (2, 8, BATCH)), (1, 2, 0))
                gate, up = tl.split(halves.to(tl.float32))
                columns, wanted = sixteen * 8 + tl.arange(0, 8), row_wanted
                result = gate * tl.sigmoid(gate) * up
            else:
                columns = sixteen * 16 + tl.arange(0, 16)
                wanted = tl.reshape(tl.broadcast_to(row_wanted[None, :], (2, 8)), (16,))
                result = rounded
            real = ((columns < real_rows) & wanted)[:, None]
            tl.store(
                out + sequences[None, :] * out_stride + columns[:, None], result, (sequences < batch)[None, :] & real
            )
            if BEST:
                values = tl.where(real, rounded.to(tl.float32), -float("inf"))
                best = tl.maximum(best, best_of(values, columns[:, None] + tl.zeros((16, BATCH), tl.int32)))
    return tl.max(best, 0)

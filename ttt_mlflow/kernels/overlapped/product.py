"""A product of a few rows with a large weight, as one of a step's overlapping kernels.

y [B, N] = x [B, K] Wᵀ for W [N, K] row-major, B ≤ 16. Twin: ``torch.nn.functional.linear``.

A program has sixteen rows of W and up to COLUMNS of their columns, in tiles of SPAN columns. HELD of them it requests
before it waits for x, into its registers, and the others when it has multiplied one. Several programs share a
multiprocessor: those of this kernel wait for x with their weights at hand, and as soon as they end, those of the next
kernel request theirs.

FLIGHT tiles at most are on their way to a program at once. More would not come earlier, because the memory is busy with
them, but all that is read meanwhile would wait behind them: the few rows that the kernel before needs for its answer.

How a tile gets from memory into the tensor cores' registers: :mod:`.tiles`.

Bytes: 2 N K for W once, and B K for each program's x, most of them from the caches. Limits: float16 and bfloat16, N a
multiple of 16, K of 8.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ttt_mlflow.kernels.overlapped.tiles import as_left, best_of, load_rows, load_tile, replaced


@triton.constexpr_function
def chunks(k, columns, span):
    """Parts of SPAN columns that a program has."""
    return -(-min(k, columns) // span)


@triton.constexpr_function
def splits(k, columns, span):
    """Programs that share the columns of a row."""
    return -(-k // (chunks(k, columns, span) * span))


@triton.jit
def own_tile(
    w, NUMBER: tl.constexpr, start, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr,
    GATED: tl.constexpr, after=0,
):  # fmt: skip
    """Tile NUMBER of this program. after: as :func:`load_tile` says."""
    return load_tile(w, tl.program_id(0), start + NUMBER * SPAN, N, K, SPAN, WARPS, GATED, after)


@triton.jit
def first_tiles(
    w, zero, start, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr, GATED: tl.constexpr,
    COUNT: tl.constexpr, FLIGHT: tl.constexpr,
):  # fmt: skip
    """Request the first COUNT tiles of this program, each of them when the one FLIGHT before has come."""
    tiles = (own_tile(w, 0, start, N, K, SPAN, WARPS, GATED),)
    for number in tl.static_range(1, COUNT):
        if number >= FLIGHT:
            tile = own_tile(w, number, start, N, K, SPAN, WARPS, GATED, tiles[number - FLIGHT] & zero)
        else:
            tile = own_tile(w, number, start, N, K, SPAN, WARPS, GATED)
        tiles = tiles + (tile,)  # noqa: RUF005 - Triton knows no starred expressions
    return tiles


@triton.jit
def own_rows(
    x, stride, batch, start, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr, BATCH: tl.constexpr,
    CHUNKS: tl.constexpr,
):  # fmt: skip
    """The columns of x [B, K] that this program multiplies, one operand for each part."""
    rows = (load_rows(x, stride, batch, start, K, SPAN, WARPS, BATCH),)
    for chunk in tl.static_range(1, CHUNKS):
        rows = rows + (load_rows(x, stride, batch, start + chunk * SPAN, K, SPAN, WARPS, BATCH),)  # noqa: RUF005
    return rows


@triton.jit
def product_kernel(
    x, x_stride, w, zero, out, best, batch, words, out_stride,
    N: tl.constexpr, K: tl.constexpr, BATCH: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
    WARPS: tl.constexpr, HELD: tl.constexpr, FLIGHT: tl.constexpr, PARTIAL: tl.constexpr, GATED: tl.constexpr,
    BEST: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """out [B, N], rounded to its dtype. Programs: N / 16 by :func:`splits`. zero: 0, unknown to the compiler.

    PARTIAL: out [splits, B, N] float32 has the sums of each part of the columns instead. GATED: out [B, N / 2] =
    silu(gate) · up, of the first and the second half of W's rows, each rounded before. BEST: best [BATCH, programs]
    int64, the largest value of each program's real rows (:func:`best_of`).
    """
    CHUNKS: tl.constexpr = chunks(K, COLUMNS, SPAN)
    COUNT: tl.constexpr = min(HELD, CHUNKS)
    start = tl.program_id(1) * (CHUNKS * SPAN)
    if OVERLAP:
        gdc_launch_dependents()
    tiles = first_tiles(w, zero, start, N, K, SPAN, WARPS, GATED, COUNT, FLIGHT)
    if OVERLAP:
        gdc_wait()
    rows = own_rows(x, x_stride, batch, start, K, SPAN, WARPS, BATCH, CHUNKS)
    sums = tl.zeros((WARPS, 16, BATCH), tl.float32)
    for chunk in tl.static_range(CHUNKS):
        left = as_left(tiles[chunk % COUNT], rows[chunk].dtype, SPAN // (32 * WARPS), WARPS)
        sums = tl.dot(left, rows[chunk], sums)
        if chunk + COUNT < CHUNKS:
            tile = own_tile(w, chunk + COUNT, start, N, K, SPAN, WARPS, GATED)
            tiles = replaced(tiles, chunk % COUNT, tile)

    sequences = tl.arange(0, BATCH)[None, :]
    if PARTIAL:
        out += tl.program_id(1) * batch * N
    total = tl.sum(sums, 0)
    rounded = total if PARTIAL else total.to(out.dtype.element_ty)
    if GATED:
        halves = tl.permute(tl.reshape(rounded, (2, 8, BATCH)), (1, 2, 0))
        gate, up = tl.split(halves.to(tl.float32))
        columns = tl.program_id(0) * 8 + tl.arange(0, 8)
        rounded = gate * tl.sigmoid(gate) * up
    else:
        columns = tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.store(out + sequences * out_stride + columns[:, None], rounded, sequences < batch)
    if BEST:
        values = tl.where((columns < words)[:, None], rounded.to(tl.float32), -float("inf"))
        largest = best_of(values, columns[:, None] + tl.zeros((16, BATCH), tl.int32))
        tl.store(best + tl.arange(0, BATCH) * (N // 16) + tl.program_id(0), tl.max(largest, 0))

"""A product of a few rows with a large weight, as one of a step's overlapping kernels.

y [B, N] = x [B, K] Wᵀ for W [N, K] row-major, B ≤ 16. Twin: ``torch.nn.functional.linear``.

A program has some rows of W and up to COLUMNS of their columns, all of it in its registers. It requests them at once,
before it waits for x. Several programs share a multiprocessor: those of this kernel wait for x with their weights at
hand, and as soon as they end, those of the next kernel request theirs. How a tile gets from memory into the tensor
cores' registers: :mod:`ttt_mlflow.kernels.persistent.products`.

Bytes: 2 N K for W once, and B K for each program's x, most of them from the L2 cache. Limits: float16 and bfloat16, N a
multiple of 16 · SIXTEENS or the last rows masked, K even.
"""

import triton
import triton.language as tl

from ttt_mlflow.kernels.overlap import wait_for_inputs
from ttt_mlflow.kernels.persistent.products import as_left, best_of, load_rows, load_tile, replaced

LINE = tl.constexpr(64)  # elements of 16 bits in a line of the L2 cache


@triton.constexpr_function
def chunks(k, columns, span):
    """Parts of SPAN columns that a program has."""
    return -(-min(k, columns) // span)


@triton.constexpr_function
def splits(k, columns, span):
    """Programs that share the columns of a row."""
    return -(-k // (chunks(k, columns, span) * span))


@triton.constexpr_function
def padded(columns):
    """The next power of two."""
    return 1 << (columns - 1).bit_length()


@triton.jit
def own_tile(
    w, NUMBER: tl.constexpr, start, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr,
    SIXTEENS: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Tile NUMBER of this program: its sixteens of one part of the columns, then those of the next part."""
    sixteen = tl.program_id(0) * SIXTEENS + NUMBER % SIXTEENS
    wanted = (tl.arange(0, 8) >= 0) & (sixteen < N // 16)
    return load_tile(w, sixteen, wanted, start + NUMBER // SIXTEENS * SPAN, N, K, SPAN, WARPS, GATED)


@triton.jit
def own_tiles(
    w, start, N: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr, SIXTEENS: tl.constexpr,
    CHUNKS: tl.constexpr, GATED: tl.constexpr, AHEAD: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Request all tiles of this program. AHEAD, OVERLAP: see :func:`product_kernel`."""
    tiles = (own_tile(w, 0, start, N, K, SPAN, WARPS, SIXTEENS, GATED),)
    for number in tl.static_range(1, CHUNKS * SIXTEENS):
        tiles = tiles + (own_tile(w, number, start, N, K, SPAN, WARPS, SIXTEENS, GATED),)  # noqa: RUF005 - see replaced
    if AHEAD and OVERLAP:
        for place in tl.static_range(SIXTEENS):
            later = (tl.program_id(0) + AHEAD) * SIXTEENS + place
            request_in_cache(w, later, start, N, K, padded(CHUNKS * SPAN), GATED)
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
def request_in_cache(w, sixteen, start, N: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, GATED: tl.constexpr):
    """Let the L2 cache read the rows of another program, which finds them there later. COLUMNS: a power of two."""
    row, line = tl.arange(0, 16)[:, None], tl.arange(0, COLUMNS // LINE)[None, :]
    rows = sixteen * 8 + row % 8 + row // 8 * (N // 2) if GATED else sixteen * 16 + row
    columns = start + line * LINE
    place = w + rows.to(tl.int64) * K + columns
    place = tl.where((sixteen < N // 16) & (columns < K), place, w)
    tl.inline_asm_elementwise(
        "{ prefetch.global.L2 [$1]; mov.u32 $0, 0; }", "=r,l", [place], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def multiply_and_keep(
    tiles, rows, scale, out, best, batch, real_rows,
    N: tl.constexpr, BATCH: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr, SIXTEENS: tl.constexpr,
    CHUNKS: tl.constexpr, PARTIAL: tl.constexpr, GATED: tl.constexpr, BEST: tl.constexpr,
):  # fmt: skip
    """The product of :func:`own_tiles` and of the operands ``rows``, times ``scale`` [BATCH] float32, kept as
    :func:`product_kernel` says."""
    sums = (tl.zeros((WARPS, 16, BATCH), tl.float32),)
    for _ in tl.static_range(1, SIXTEENS):
        sums = sums + (tl.zeros((WARPS, 16, BATCH), tl.float32),)  # noqa: RUF005 - see replaced
    for chunk in tl.static_range(CHUNKS):
        for place in tl.static_range(SIXTEENS):
            left = as_left(tiles[chunk * SIXTEENS + place], rows[chunk].dtype, SPAN // (32 * WARPS), WARPS)
            sums = replaced(sums, place, tl.dot(left, rows[chunk], sums[place]))

    sequences = tl.arange(0, BATCH)[None, :]
    if PARTIAL:
        out += tl.program_id(1) * batch * N
    largest = tl.full((16, BATCH), -0x8000000000000000, tl.int64)
    for place in tl.static_range(SIXTEENS):
        sixteen = tl.program_id(0) * SIXTEENS + place
        total = tl.sum(sums[place], 0) * scale[None, :]
        rounded = total if PARTIAL else total.to(out.dtype.element_ty)
        if GATED:
            halves = tl.permute(tl.reshape(rounded, (2, 8, BATCH)), (1, 2, 0))
            gate, up = tl.split(halves.to(tl.float32))
            columns = sixteen * 8 + tl.arange(0, 8)
            rounded = gate * tl.sigmoid(gate) * up
        else:
            columns = sixteen * 16 + tl.arange(0, 16)
        real = (columns < real_rows)[:, None]
        tl.store(out + sequences * real_rows + columns[:, None], rounded, real & (sequences < batch))
        if BEST:
            values = tl.where(real, rounded.to(tl.float32), -float("inf"))
            largest = tl.maximum(largest, best_of(values, columns[:, None] + tl.zeros((16, BATCH), tl.int32)))
    if BEST:
        tl.store(best + tl.program_id(0) * BATCH + tl.arange(0, BATCH), tl.max(largest, 0))


@triton.jit
def product_kernel(
    x, x_stride, w, out, best, batch, real_rows,
    N: tl.constexpr, K: tl.constexpr, BATCH: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
    WARPS: tl.constexpr, SIXTEENS: tl.constexpr, PARTIAL: tl.constexpr, GATED: tl.constexpr, BEST: tl.constexpr,
    AHEAD: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """out [B, real_rows], rounded to its dtype. Programs: rows of W by SIXTEENS · 16, and :func:`splits`.

    PARTIAL: out [splits, B, N] float32 has the sums of each part of the columns instead. GATED: out [B, N / 2] =
    silu(gate) · up, of the first and the second half of W's rows, each rounded before. BEST: best [programs, BATCH]
    int64, the largest value of each program's real rows (:func:`best_of`). AHEAD: a program also lets the cache read
    the rows of the one that has a number so much larger; 0: of none.
    """
    CHUNKS: tl.constexpr = chunks(K, COLUMNS, SPAN)
    start = tl.program_id(1) * (CHUNKS * SPAN)
    tiles = own_tiles(w, start, N, K, SPAN, WARPS, SIXTEENS, CHUNKS, GATED, AHEAD, OVERLAP)
    wait_for_inputs(OVERLAP)
    rows = own_rows(x, x_stride, batch, start, K, SPAN, WARPS, BATCH, CHUNKS)
    multiply_and_keep(
        tiles,
        rows,
        tl.full((BATCH,), 1.0, tl.float32),
        out,
        best,
        batch,
        real_rows,
        N,
        BATCH,
        SPAN,
        WARPS,
        SIXTEENS,
        CHUNKS,
        PARTIAL,
        GATED,
        BEST,
    )

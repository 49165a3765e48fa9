"""A product whose programs compute the norm of their input themselves, which saves a kernel before it.

RMSNorm(x) Wᵀ = (x · weight) Wᵀ / rms(x). So a program multiplies x · weight with W, sums the squares of x meanwhile,
and scales the results. Twin: ``add_rms_norm`` of :mod:`ttt_mlflow.kernels.block.reference` and a product. x · weight
is rounded where the twin rounds x · weight / rms(x): relative to itself by as much. A power of two keeps it in the
range of float16.

It pays for few sequences: every program reads all of x. A row of weights is loaded like that of a sequence, the same
for each of them, so that it lies in registers like x. Limits: those of the product, and K a multiple of SPAN.
"""

import triton
import triton.language as tl

from ttt_mlflow.kernels.block.rows import load_row
from ttt_mlflow.kernels.overlap import wait_for_inputs
from ttt_mlflow.kernels.overlapped.product import multiply_and_keep, own_rows, own_tiles

SHRINK = tl.constexpr(1 / 64)  # 4 million fit into float16 then, and 0.004 is rounded as closely as everything above


@triton.jit
def add_norm_product_kernel(
    hidden, delta, norm, out_hidden, w, out, batch, real_rows,
    N: tl.constexpr, K: tl.constexpr, BATCH: tl.constexpr, SPAN: tl.constexpr, WARPS: tl.constexpr,
    SIXTEENS: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, AHEAD: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """The product of RMSNorm(hidden + delta) · norm; out_hidden [B, K] = hidden + delta. BLOCK: K, as a power of two.

    The other arguments: :func:`ttt_mlflow.kernels.overlapped.product.product_kernel`.
    """
    CHUNKS: tl.constexpr = K // SPAN
    tiles = own_tiles(w, 0, N, K, SPAN, WARPS, SIXTEENS, CHUNKS, GATED, AHEAD, OVERLAP)
    wait_for_inputs(OVERLAP)
    weights = own_rows(norm, 0, BATCH, 0, K, SPAN, WARPS, BATCH, CHUNKS)
    rows = own_rows(hidden, K, batch, 0, K, SPAN, WARPS, BATCH, CHUNKS)
    others = own_rows(delta, K, batch, 0, K, SPAN, WARPS, BATCH, CHUNKS)
    added = add(rows[0], others[0]).to(tl.float32)
    squares = added * added
    weighted = ((added * weights[0].to(tl.float32) * SHRINK).to(rows[0].dtype),)
    for chunk in tl.static_range(1, CHUNKS):
        added = add(rows[chunk], others[chunk]).to(tl.float32)
        squares += added * added
        some = (added * weights[chunk].to(tl.float32) * SHRINK).to(rows[0].dtype)
        weighted = weighted + (some,)  # noqa: RUF005 - Triton knows no starred expressions
    scale = tl.rsqrt(tl.sum(tl.sum(squares, 1), 0) / K + EPS) / SHRINK
    multiply_and_keep(
        tiles, weighted, scale, out, out, batch, real_rows, N, BATCH, SPAN, WARPS, SIXTEENS, CHUNKS, False, GATED, False
    )
    for sequence in range(tl.program_id(0), batch, tl.num_programs(0)):
        cols = tl.arange(0, BLOCK)
        row = load_row(hidden + sequence * K, True, K, BLOCK)
        tl.store(out_hidden + sequence * K + cols, add(row, load_row(delta + sequence * K, True, K, BLOCK)), cols < K)


@triton.jit
def add(x, y):
    """Their sum in float32, rounded to their type."""
    return (x.to(tl.float32) + y.to(tl.float32)).to(x.dtype)

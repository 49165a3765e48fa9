"""TTT-Linear decode step in Triton, accumulating form: the baseline with which the rank-1 form is compared.

Twin: :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_accumulate`, which defines shapes and meaning.

Layout: one program per head (sequence-major), W and its sum [F, F] row-major, vectors [F]. Both matrices are read once,
and the sum is written once. The query first uses the sum as it was before the token, (Q S) + (Q·K) g instead of
Q (S + Kᵀ g), so that the reads do not wait for the gradient. The first token of a mini-batch does not read the sum. The
last token writes W instead of the sum, and for that reads W again, from the cache.

Bytes, per head and token, averaged over a mini-batch of M: F²(1 + 2 (M - 1)/M + 1/M) for the matrices, 2.94 F² at
M = 16, and about 7 F for vectors.
Limits: F up to 128 (padded to a power of two), M = 16, state and sums in one dtype, contiguous; any GPU, and Triton's
interpreter. The sum is rounded to its dtype at every token, after the output was computed from it. Over three
mini-batches, the error against float64 stays within the rank-1 form's tolerances, 1e-3 for float16 and 8e-3 for
bfloat16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.checks import check_decode_arguments, head_shape
from ttt_mlflow.kernels.functions import layer_norm, layer_norm_l2_grad
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.kernels.launch import launch_options
from ttt_mlflow.kernels.opaque import opaque


@triton.jit
def linear_accumulate_kernel(
    q,
    k,
    v,
    v_stride,
    lr,
    eta,
    position,
    norm_weight,
    norm_bias,
    w,
    b,
    w_sum,
    b_sum,
    out,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    EPS: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)  # counts sequences and heads
    sequence, h = head // HEADS, head % HEADS
    now = tl.load(position)
    rows, cols = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    row_mask, mask = rows < HEAD_DIM, cols < HEAD_DIM
    tile = rows[:, None] * HEAD_DIM + cols[None, :]
    tile_mask = row_mask[:, None] & mask[None, :]
    vector = head * HEAD_DIM + cols
    begun = now > 0
    w, w_sum = w + head * HEAD_DIM * HEAD_DIM, w_sum + head * HEAD_DIM * HEAD_DIM

    matrix = tl.load(w + tile, tile_mask, 0.0)
    before = tl.load(w_sum + tile, tile_mask & begun, 0.0)
    k_rows = tl.load(k + head * HEAD_DIM + rows, row_mask, 0.0).to(tl.float32)
    q_rows = tl.load(q + head * HEAD_DIM + rows, row_mask, 0.0).to(tl.float32)
    k_cols = tl.load(k + vector, mask, 0.0).to(tl.float32)
    q_cols = tl.load(q + vector, mask, 0.0).to(tl.float32)
    v_cols = tl.load(v + sequence * v_stride + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    bias = tl.load(b + vector, mask, 0.0).to(tl.float32)
    bias_before = tl.load(b_sum + vector, mask & begun, 0.0).to(tl.float32)
    gamma = tl.load(norm_weight + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    beta = tl.load(norm_bias + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    rate = tl.load(lr + head)
    scale = tl.load(eta + now)

    wide = matrix.to(tl.float32)
    z_k = tl.sum(k_rows[:, None] * wide, 0) + bias
    z_q = tl.sum(q_rows[:, None] * wide, 0) + bias
    past = tl.sum(q_rows[:, None] * before.to(tl.float32), 0) + bias_before
    current = tl.sum(k_cols * q_cols, 0) + 1.0

    gradient = layer_norm_l2_grad(z_k, v_cols - k_cols, gamma, beta, mask, HEAD_DIM, EPS) * rate
    z_q -= scale * (past + current * gradient)
    result = q_cols + layer_norm(z_q, gamma, beta, mask, HEAD_DIM, EPS)
    tl.store(out + vector, result, mask)

    summed = before.to(tl.float32) + k_rows[:, None] * gradient[None, :]
    bias_summed = bias_before + gradient
    if now == TOKENS - 1:
        folded = tl.load(w + tile, tile_mask, 0.0).to(tl.float32) - scale * summed
        tl.store(w + tile, folded, tile_mask)
        tl.store(b + vector, bias - scale * bias_summed, mask)
    else:
        tl.store(w_sum + tile, summed, tile_mask)
        tl.store(b_sum + vector, bias_summed, mask)


@opaque(mutates=["w", "b", "w_sum", "b_sum"], shapes=lambda q, *_: torch.empty_like(q))
def linear_accumulate(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    eta: Tensor,
    position: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w: Tensor,
    b: Tensor,
    w_sum: Tensor,
    b_sum: Tensor,
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_accumulate`.

    Raises ValueError with the argument's name for unsupported arguments.
    """
    batch, heads, dim = head_shape("b", b)
    check_decode_arguments(
        q, k, v, lr, eta, position, norm_weight, norm_bias,
        state={
            "b": (b, (batch, heads, dim)), "b_sum": (b_sum, (batch, heads, dim)),
            "w": (w, (batch, heads, dim, dim)), "w_sum": (w_sum, (batch, heads, dim, dim)),
        },
    )  # fmt: skip
    out = torch.empty_like(q)
    options = launch_options("ttt_linear_accumulate", q.device, w.dtype, dim)
    linear_accumulate_kernel[(batch * heads,)](
        q, k, v, v.stride(0), lr, eta, position, norm_weight, norm_bias, w, b, w_sum, b_sum, out,
        heads, dim, triton.next_power_of_2(dim), MINI_BATCH, NORM_EPS, **options,
    )  # fmt: skip
    return out

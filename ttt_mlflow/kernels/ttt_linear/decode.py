"""TTT-Linear decode step in Triton, rank-1 form (inner net ``mlp_1_dual_triton``).

Twin: :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_decode`, which defines shapes and meaning.

Layout: one program per head (sequence-major), W [F, F] row-major, vectors [F]. W is read once and kept in registers
for both products, K W and Q W. The vectors of the earlier tokens of the mini-batch are read from their slots. At the
last position, W is read again (from the cache) and written with the mini-batch's update folded in.

Bytes, per head and token, averaged over a mini-batch of M: F²(1 + 1/M) for W and F(M + 5) for vectors and slots.
Limits: F up to 128 (padded to a power of two), M = 16, state in one dtype, contiguous. All state dtypes, and Triton's
interpreter. 16-bit state with heads of 64 uses the tensor-core kernel, ``ttt_linear_decode_tensor``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.checks import check_decode_arguments, head_shape
from ttt_mlflow.kernels.functions import layer_norm, layer_norm_l2_grad
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.kernels.launch import launch_options, on_tensor_cores, overlaps
from ttt_mlflow.kernels.opaque import opaque


@triton.jit
def linear_decode_head(
    head,
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
    k_slots,
    g_slots,
    out,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SLOTS: tl.constexpr,
    EPS: tl.constexpr,
):
    """``head`` counts sequences and heads, sequence-major."""
    sequence, h = head // HEADS, head % HEADS
    now = tl.load(position)
    rows, cols, slots = tl.arange(0, BLOCK), tl.arange(0, BLOCK), tl.arange(0, SLOTS)
    row_mask, mask = rows < HEAD_DIM, cols < HEAD_DIM
    tile = head * HEAD_DIM * HEAD_DIM + rows[:, None] * HEAD_DIM + cols[None, :]
    tile_mask = row_mask[:, None] & mask[None, :]
    vector = head * HEAD_DIM + cols
    slot = head * SLOTS * HEAD_DIM + slots[:, None] * HEAD_DIM + cols[None, :]
    past = (slots < now)[:, None] & mask[None, :]

    matrix = tl.load(w + tile, tile_mask, 0.0)
    keys = tl.load(k_slots + slot, past, 0.0)
    gradients = tl.load(g_slots + slot, past, 0.0)
    k_rows = tl.load(k + head * HEAD_DIM + rows, row_mask, 0.0).to(tl.float32)
    q_rows = tl.load(q + head * HEAD_DIM + rows, row_mask, 0.0).to(tl.float32)
    k_cols = tl.load(k + vector, mask, 0.0)
    q_cols = tl.load(q + vector, mask, 0.0).to(tl.float32)
    v_cols = tl.load(v + sequence * v_stride + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    bias = tl.load(b + vector, mask, 0.0).to(tl.float32)
    gamma = tl.load(norm_weight + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    beta = tl.load(norm_bias + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    rate = tl.load(lr + head)
    scale = tl.load(eta + now)

    wide = matrix.to(tl.float32)
    z_k = tl.sum(k_rows[:, None] * wide, 0) + bias
    z_q = tl.sum(q_rows[:, None] * wide, 0) + bias

    k_wide = k_cols.to(tl.float32)
    gradient = layer_norm_l2_grad(z_k, v_cols - k_wide, gamma, beta, mask, HEAD_DIM, EPS) * rate
    gradient = gradient.to(g_slots.dtype.element_ty)
    tl.store(k_slots + head * SLOTS * HEAD_DIM + now * HEAD_DIM + cols, k_cols, mask)
    tl.store(g_slots + head * SLOTS * HEAD_DIM + now * HEAD_DIM + cols, gradient, mask)

    score = tl.sum(keys.to(tl.float32) * q_cols[None, :], 1) + 1.0
    update = tl.sum(score[:, None] * gradients.to(tl.float32), 0)
    update += (tl.sum(k_wide * q_cols, 0) + 1.0) * gradient.to(tl.float32)
    result = q_cols + layer_norm(z_q - scale * update, gamma, beta, mask, HEAD_DIM, EPS)
    tl.store(out + vector, result, mask)

    if now == SLOTS - 1:
        last = (slots == SLOTS - 1)[:, None]
        keys = tl.where(last, k_cols[None, :].to(keys.dtype), keys)
        gradients = tl.where(last, gradient[None, :], gradients)
        folded = tl.load(w + tile, tile_mask, 0.0).to(tl.float32)
        folded -= scale * tl.dot(tl.trans(keys), gradients, input_precision="ieee")
        tl.store(w + tile, folded, tile_mask)
        tl.store(b + vector, bias - scale * tl.sum(gradients.to(tl.float32), 0), mask)


@triton.jit
def linear_decode_kernel(
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
    k_slots,
    g_slots,
    out,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SLOTS: tl.constexpr,
    EPS: tl.constexpr,
):
    linear_decode_head(
        tl.program_id(0).to(tl.int64), q, k, v, v_stride, lr, eta, position, norm_weight, norm_bias, w, b,
        k_slots, g_slots, out, HEADS, HEAD_DIM, BLOCK, SLOTS, EPS,
    )  # fmt: skip


@opaque(mutates=["w", "b", "k_slots", "g_slots"], shapes=lambda q, *_, **__: torch.empty_like(q))
def linear_decode(
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
    k_slots: Tensor,
    g_slots: Tensor,
    *,
    overlap: bool = False,
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_decode`.

    ``overlap``: the launch may begin before the previous kernel on the stream has ended (tensor-core kernel, from
    compute capability 9.0; otherwise without effect). This is correct only if the previous kernel writes nothing but q,
    k, v and lr: state, slots, norms, eta and position are read before it has ended.

    Raises ValueError with the argument's name for unsupported arguments.
    """
    batch, heads, dim = head_shape("b", b)
    check_decode_arguments(
        q, k, v, lr, eta, position, norm_weight, norm_bias,
        state={
            "b": (b, (batch, heads, dim)), "w": (w, (batch, heads, dim, dim)),
            "k_slots": (k_slots, (batch, heads, MINI_BATCH, dim)),
            "g_slots": (g_slots, (batch, heads, MINI_BATCH, dim)),
        },
    )  # fmt: skip
    out = torch.empty_like(q)
    if on_tensor_cores("ttt_linear_decode_tensor", q.device, w.dtype, dim):
        from ttt_mlflow.kernels.ttt_linear.decode_tensor_cores import linear_decode_tensor

        linear_decode_tensor(
            out, overlap and overlaps(q.device), q, k, v, lr, eta, position, norm_weight, norm_bias, w, b,
            k_slots, g_slots,
        )  # fmt: skip
        return out
    options = launch_options("ttt_linear_decode", q.device, w.dtype, dim)
    linear_decode_kernel[(batch * heads,)](
        q, k, v, v.stride(0), lr, eta, position, norm_weight, norm_bias, w, b, k_slots, g_slots, out,
        heads, dim, triton.next_power_of_2(dim), MINI_BATCH, NORM_EPS, **options,
    )  # fmt: skip
    return out

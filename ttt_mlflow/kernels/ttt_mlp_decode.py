"""TTT-MLP decode step in Triton, rank-1 form (inner net ``mlp_2_dual_triton``).

Twin: :func:`ttt_mlflow.kernels.reference.mlp_decode`, which defines shapes and meaning.

Layout: one program a head (sequence-major); W1 [F, N] and W2 [N, F] row-major with N = 4 F, handled in chunks of CHUNK
hidden units. Pass 1 reads W1 once for K and Q together and W2 for the second layer's output, from which the gradient
g2 follows. Pass 2 reads W2 again, once for both g1 = (W2 g2) ⊙ GELU′ and the query's second layer. At the last
position both matrices are read and written once more with the update folded in.

Bytes, per head and token, averaged over a mini-batch of M: 2 F N (1 + 1/M) plus vectors and slots, and W2 once more
from the cache. Limits: F up to 128 (padded to a power of two), M = 16, state in one dtype, contiguous.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttt_mlflow.kernels.checks import check_decode_arguments
from ttt_mlflow.kernels.functions import gelu, gelu_and_grad, layer_norm, layer_norm_l2_grad
from ttt_mlflow.kernels.launch import launch_options
from ttt_mlflow.kernels.opaque import opaque
from ttt_mlflow.kernels.reference import NORM_EPS


@triton.jit
def mlp_decode_kernel(
    q,
    k,
    v,
    v_stride,
    lr,
    eta,
    position,
    norm_weight,
    norm_bias,
    w1,
    b1,
    w2,
    b2,
    k_slots,
    g1_slots,
    x2_slots,
    g2_slots,
    out,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    EPS: tl.constexpr,
):
    HIDDEN: tl.constexpr = 4 * HEAD_DIM
    head = tl.program_id(0).to(tl.int64)  # over sequences and heads
    sequence, h = head // HEADS, head % HEADS
    now = tl.load(position)
    cols, slots, units = tl.arange(0, BLOCK), tl.arange(0, SLOTS), tl.arange(0, CHUNK)
    mask = cols < HEAD_DIM
    vector = head * HEAD_DIM + cols
    w1_head, w2_head = w1 + head * HEAD_DIM * HIDDEN, w2 + head * HEAD_DIM * HIDDEN
    narrow = head * SLOTS * HEAD_DIM  # slots of F
    broad = head * SLOTS * HIDDEN  # slots of N
    past = slots < now
    past_narrow = past[:, None] & mask[None, :]

    k_cols = tl.load(k + vector, mask, 0.0)
    q_cols = tl.load(q + vector, mask, 0.0).to(tl.float32)
    v_cols = tl.load(v + sequence * v_stride + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    gamma = tl.load(norm_weight + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    beta = tl.load(norm_bias + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    bias2 = tl.load(b2 + vector, mask, 0.0).to(tl.float32)
    rate = tl.load(lr + head)
    scale = tl.load(eta + now)
    k_wide = k_cols.to(tl.float32)

    # pass 1: both products with W1, the keys' second layer
    z2 = bias2
    for chunk in tl.static_range(0, HIDDEN, CHUNK):
        tile = tl.load(w1_head + cols[:, None] * HIDDEN + (chunk + units)[None, :], mask[:, None], 0.0).to(tl.float32)
        bias1 = tl.load(b1 + head * HIDDEN + chunk + units).to(tl.float32)
        z1 = tl.sum(k_wide[:, None] * tile, 0) + bias1
        tile = tl.load(w2_head + (chunk + units)[:, None] * HEAD_DIM + cols[None, :], mask[None, :], 0.0)
        z2 += tl.sum(gelu(z1)[:, None] * tile.to(tl.float32), 0)
    g2 = layer_norm_l2_grad(z2, v_cols - k_wide, gamma, beta, mask, HEAD_DIM, EPS) * rate
    g2 = g2.to(g2_slots.dtype.element_ty)
    g2_wide = g2.to(tl.float32)
    tl.store(k_slots + narrow + now * HEAD_DIM + cols, k_cols, mask)
    tl.store(g2_slots + narrow + now * HEAD_DIM + cols, g2, mask)

    # scores of the query against this mini-batch's keys, first layer
    slot = narrow + slots[:, None] * HEAD_DIM + cols[None, :]
    keys = tl.load(k_slots + slot, past_narrow, 0.0)
    score1 = tl.sum(keys.to(tl.float32) * q_cols[None, :], 1) + 1.0
    current1 = tl.sum(k_wide * q_cols, 0) + 1.0

    # pass 2: the first layer's gradient, the query through both layers
    z2 = bias2
    score2 = tl.zeros((SLOTS,), tl.float32)
    current2 = 1.0
    for chunk in tl.static_range(0, HIDDEN, CHUNK):
        hidden = chunk + units
        slot = broad + slots[:, None] * HIDDEN + hidden[None, :]
        tile = tl.load(w1_head + cols[:, None] * HIDDEN + hidden[None, :], mask[:, None], 0.0).to(tl.float32)
        bias1 = tl.load(b1 + head * HIDDEN + hidden).to(tl.float32)
        x2, slope = gelu_and_grad(tl.sum(k_wide[:, None] * tile, 0) + bias1)
        z1 = tl.sum(q_cols[:, None] * tile, 0) + bias1
        x2 = x2.to(x2_slots.dtype.element_ty)
        tile = tl.load(w2_head + hidden[:, None] * HEAD_DIM + cols[None, :], mask[None, :], 0.0).to(tl.float32)
        g1 = (tl.sum(tile * g2_wide[None, :], 1) * slope).to(g1_slots.dtype.element_ty)
        tl.store(g1_slots + broad + now * HIDDEN + hidden, g1)
        tl.store(x2_slots + broad + now * HIDDEN + hidden, x2)
        gradients = tl.load(g1_slots + slot, past[:, None], 0.0).to(tl.float32)
        update = tl.sum(score1[:, None] * gradients, 0) + current1 * g1.to(tl.float32)
        query = gelu(z1 - scale * update)
        z2 += tl.sum(query[:, None] * tile, 0)
        inputs = tl.load(x2_slots + slot, past[:, None], 0.0).to(tl.float32)
        score2 += tl.sum(inputs * query[None, :], 1)
        current2 += tl.sum(query * x2.to(tl.float32), 0)
    slot = narrow + slots[:, None] * HEAD_DIM + cols[None, :]
    gradients = tl.load(g2_slots + slot, past_narrow, 0.0)
    update = tl.sum((score2 + 1.0)[:, None] * gradients.to(tl.float32), 0) + current2 * g2_wide
    result = q_cols + layer_norm(z2 - scale * update, gamma, beta, mask, HEAD_DIM, EPS)
    tl.store(out + vector, result, mask)

    if now == SLOTS - 1:
        tl.debug_barrier()  # this position's vectors, stored above, are read below by other threads
        all_narrow = mask[None, :] & (slots >= 0)[:, None]
        all_keys = tl.load(k_slots + slot, all_narrow, 0.0)
        all_gradients = tl.load(g2_slots + slot, all_narrow, 0.0)
        tl.store(b2 + vector, bias2 - scale * tl.sum(all_gradients.to(tl.float32), 0), mask)
        for first_unit in range(0, HIDDEN, CHUNK):
            unit = first_unit + units
            vectors = broad + slots[:, None] * HIDDEN + unit[None, :]
            first = tl.load(g1_slots + vectors)
            second = tl.load(x2_slots + vectors)
            w1_tile = w1_head + cols[:, None] * HIDDEN + unit[None, :]
            w1_new = tl.load(w1_tile, mask[:, None], 0.0).to(tl.float32)
            w1_new -= scale * tl.dot(tl.trans(all_keys), first, input_precision="ieee")
            tl.store(w1_tile, w1_new, mask[:, None])
            w2_tile = w2_head + unit[:, None] * HEAD_DIM + cols[None, :]
            w2_new = tl.load(w2_tile, mask[None, :], 0.0).to(tl.float32)
            w2_new -= scale * tl.dot(tl.trans(second), all_gradients, input_precision="ieee")
            tl.store(w2_tile, w2_new, mask[None, :])
            b1_new = tl.load(b1 + head * HIDDEN + unit).to(tl.float32)
            tl.store(b1 + head * HIDDEN + unit, b1_new - scale * tl.sum(first.to(tl.float32), 0))


CHUNK = 32  # hidden units a tile; tl.dot in the fold needs at least 16


@opaque(mutates=["w1", "b1", "w2", "b2", "k_slots", "g1_slots", "x2_slots", "g2_slots"], shapes=lambda q, *_: torch.empty_like(q))
def mlp_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    eta: Tensor,
    position: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    k_slots: Tensor,
    g1_slots: Tensor,
    x2_slots: Tensor,
    g2_slots: Tensor,
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.reference.mlp_decode`.

    Raises ValueError, which names the argument, for what it cannot take.
    """
    batch, heads, dim = b2.shape
    check_decode_arguments(
        q, k, v, lr, eta, position, norm_weight, norm_bias,
        state={
            "w1": (w1, (batch, heads, dim, 4 * dim)), "b1": (b1, (batch, heads, 4 * dim)),
            "w2": (w2, (batch, heads, 4 * dim, dim)), "b2": (b2, (batch, heads, dim)),
        },
        slots={
            "k_slots": (k_slots, dim), "g1_slots": (g1_slots, 4 * dim),
            "x2_slots": (x2_slots, 4 * dim), "g2_slots": (g2_slots, dim),
        },
    )  # fmt: skip
    out = torch.empty_like(q)
    options = launch_options("ttt_mlp_decode", q.device, w1.dtype, dim)
    mlp_decode_kernel[(batch * heads,)](
        q, k, v, v.stride(0), lr, eta, position, norm_weight, norm_bias, w1, b1, w2, b2,
        k_slots, g1_slots, x2_slots, g2_slots, out,
        heads, dim, triton.next_power_of_2(dim), CHUNK, k_slots.shape[2], NORM_EPS, **options,
    )  # fmt: skip
    return out

"""TTT-MLP decode step in Triton with a head's matrices in the registers of its program, for few heads at a time.

Twin: :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_decode`. The same arithmetic as ``mlp_decode_head``, in another
order: that kernel takes the matrices in tiles, so that many programs share a multiprocessor; here a program has one for
itself, and what counts is the number of steps that wait for each other. The state is loaded in a function of its own,
because it depends on no other stage of a decode step.

Limits: heads whose two matrices fit into registers, F up to 64 with 8 warps.
"""

import triton
import triton.language as tl

from ttt_mlflow.kernels.functions import gelu, gelu_and_grad, layer_norm, layer_norm_l2_grad
from ttt_mlflow.kernels.ttt_mlp.decode import mlp_fold


@triton.jit
def mlp_head_state(
    head,
    now,
    wanted,
    eta,
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
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """What :func:`mlp_head_step` takes that depends on no other stage of the step: the state and the weights.

    ``head`` counts sequences and heads, sequence-major. Nothing but zeros unless ``wanted``. HEAD_DIM: a power of two.
    """
    HIDDEN: tl.constexpr = 4 * HEAD_DIM
    cols, units, slots = tl.arange(0, HEAD_DIM), tl.arange(0, HIDDEN), tl.arange(0, SLOTS)
    past = ((slots < now) & wanted)[:, None]
    norm = head % HEADS * HEAD_DIM + cols
    narrow = head * SLOTS * HEAD_DIM + slots[:, None] * HEAD_DIM + cols[None, :]
    broad = head * SLOTS * HIDDEN + slots[:, None] * HIDDEN + units[None, :]
    matrix = head * HEAD_DIM * HIDDEN
    return (
        tl.load(w1 + matrix + cols[:, None] * HIDDEN + units[None, :], wanted, 0.0),
        tl.load(w2 + matrix + units[:, None] * HEAD_DIM + cols[None, :], wanted, 0.0),
        tl.load(b1 + head * HIDDEN + units, wanted, 0.0),
        tl.load(b2 + head * HEAD_DIM + cols, wanted, 0.0),
        tl.load(k_slots + narrow, past, 0.0),
        tl.load(g1_slots + broad, past, 0.0),
        tl.load(x2_slots + broad, past, 0.0),
        tl.load(g2_slots + narrow, past, 0.0),
        tl.load(norm_weight + norm, wanted, 0.0),
        tl.load(norm_bias + norm, wanted, 0.0),
        tl.load(eta + now),
    )


@triton.jit
def mlp_head_step(
    head,
    now,
    state,
    k,
    q,
    v,
    rate,
    w1,
    b1,
    w2,
    b2,
    k_slots,
    g1_slots,
    x2_slots,
    g2_slots,
    out,
    HEAD_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    EPS: tl.constexpr,
):
    """A head's step. state: of :func:`mlp_head_state`. q, k, v [HEAD_DIM] in the state's dtype."""
    HIDDEN: tl.constexpr = 4 * HEAD_DIM
    w1_held, w2_held, bias1, bias2, keys, past_g1, past_x2, past_g2, gamma, beta, scale = state
    cols, units = tl.arange(0, HEAD_DIM), tl.arange(0, HIDDEN)
    mask = cols >= 0
    k_wide, q_wide, bias1, bias2 = k.to(tl.float32), q.to(tl.float32), bias1.to(tl.float32), bias2.to(tl.float32)
    gamma, beta = gamma.to(tl.float32), beta.to(tl.float32)
    w1, w2, b1, b2 = (
        w1 + head * HEAD_DIM * HIDDEN,
        w2 + head * HEAD_DIM * HIDDEN,
        b1 + head * HIDDEN,
        b2 + head * HEAD_DIM,
    )
    k_slots, g2_slots = k_slots + head * SLOTS * HEAD_DIM, g2_slots + head * SLOTS * HEAD_DIM
    g1_slots, x2_slots = g1_slots + head * SLOTS * HIDDEN, x2_slots + head * SLOTS * HIDDEN

    # the keys through both layers, the query through the first
    wide1 = w1_held.to(tl.float32)
    x2, slope = gelu_and_grad(tl.sum(k_wide[:, None] * wide1, 0) + bias1)
    queries = tl.sum(q_wide[:, None] * wide1, 0) + bias1
    x2 = x2.to(x2_slots.dtype.element_ty)
    tl.store(x2_slots + now * HIDDEN + units, x2)
    x2 = x2.to(tl.float32)
    z2 = tl.sum(x2[:, None] * w2_held.to(tl.float32), 0) + bias2
    g2 = layer_norm_l2_grad(z2, v.to(tl.float32) - k_wide, gamma, beta, mask, HEAD_DIM, EPS) * rate
    g2 = g2.to(g2_slots.dtype.element_ty)
    g2_wide = g2.to(tl.float32)
    tl.store(k_slots + now * HEAD_DIM + cols, k)
    tl.store(g2_slots + now * HEAD_DIM + cols, g2)

    # the first layer's gradient, and the query through both layers, with this mini-batch's updates
    g1 = (tl.sum(w2_held.to(tl.float32) * g2_wide[None, :], 1) * slope).to(g1_slots.dtype.element_ty)
    tl.store(g1_slots + now * HIDDEN + units, g1)
    score1 = tl.sum(keys.to(tl.float32) * q_wide[None, :], 1) + 1.0
    update1 = tl.sum(score1[:, None] * past_g1.to(tl.float32), 0)
    update1 += (tl.sum(k_wide * q_wide, 0) + 1.0) * g1.to(tl.float32)
    query = gelu(queries - scale * update1)
    score2 = tl.sum(past_x2.to(tl.float32) * query[None, :], 1) + 1.0
    update2 = tl.sum(score2[:, None] * past_g2.to(tl.float32), 0) + (tl.sum(query * x2, 0) + 1.0) * g2_wide
    z2 = tl.sum(query[:, None] * w2_held.to(tl.float32), 0) + bias2
    result = q_wide + layer_norm(z2 - scale * update2, gamma, beta, mask, HEAD_DIM, EPS)
    tl.store(out + head * HEAD_DIM + cols, result)

    if now == SLOTS - 1:
        mlp_fold(bias2, scale, w1, b1, w2, b2, k_slots, g1_slots, x2_slots, g2_slots, HEAD_DIM, HEAD_DIM, CHUNK, SLOTS)

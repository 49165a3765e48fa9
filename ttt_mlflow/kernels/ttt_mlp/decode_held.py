"""TTT-MLP decode step in Triton with a head's matrices in the registers of its program, for few heads at a time.

Twin: :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_decode`. The arithmetic of ``mlp_decode_head``. That kernel takes
the matrices in tiles, so that many programs share a multiprocessor and hide each other's waits. Here a program has one
for itself, and what counts is how often its warps wait for each other. So each warp has a part of the hidden units, all
of W1's columns and of W2's rows for them: the first layer needs no other warp's sums, the second needs one exchange.
Matrices have axes of their own for the warps and for the lanes, whose sizes are theirs: that is how Triton hands them
out. The state is loaded in a function of its own, because it depends on no other stage of a decode step.

Limits: F a power of two from 16 on; heads whose two matrices fit into registers, F up to 64 with 8 warps.
"""

import triton
import triton.language as tl

from ttt_mlflow.kernels.functions import gelu, gelu_and_grad, layer_norm, layer_norm_l2_grad
from ttt_mlflow.kernels.ttt_mlp.decode import mlp_fold


@triton.jit
def first_layer(HEAD_DIM: tl.constexpr, WARPS: tl.constexpr):
    """Rows and hidden units of W1 as held: [F / 8, WARPS, 8, units of a warp], rows in axes 0 and 2."""
    PART: tl.constexpr = 4 * HEAD_DIM // WARPS
    rows = tl.arange(0, HEAD_DIM // 8)[:, None, None, None] * 8 + tl.arange(0, 8)[None, None, :, None]
    return rows, tl.arange(0, WARPS)[None, :, None, None] * PART + tl.arange(0, PART)[None, None, None, :]


@triton.jit
def second_layer(HEAD_DIM: tl.constexpr, WARPS: tl.constexpr):
    """Hidden units of W2 as held: [units of a warp / 4, WARPS, 4], before an axis of F columns."""
    PART: tl.constexpr = 4 * HEAD_DIM // WARPS
    return (
        tl.arange(0, PART // 4)[:, None, None] * 4
        + tl.arange(0, WARPS)[None, :, None] * PART
        + tl.arange(0, 4)[None, None, :]
    )


@triton.jit
def for_second(x, HEAD_DIM: tl.constexpr, WARPS: tl.constexpr):
    """A vector of hidden units [WARPS, units of a warp], as the first layer has it, as the second layer has it."""
    return tl.permute(tl.reshape(x, (WARPS, 4 * HEAD_DIM // WARPS // 4, 4)), (1, 0, 2))


@triton.jit
def for_first(x, HEAD_DIM: tl.constexpr, WARPS: tl.constexpr):
    """The reverse of :func:`for_second`."""
    return tl.reshape(tl.permute(x, (1, 0, 2)), (WARPS, 4 * HEAD_DIM // WARPS))


@triton.jit
def sum_of_rows(x):
    """[rows / 8, WARPS, 8, units of a warp] over its rows: [WARPS, units of a warp]."""
    return tl.sum(tl.sum(x, 0), 1)


@triton.jit
def mlp_head_state(
    head,
    now,
    eta,
    norm_weight,
    norm_bias,
    pointers,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SLOTS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """What :func:`mlp_head_step` takes that depends on no other stage of the step: the state and the weights.

    ``head`` counts sequences and heads, sequence-major. pointers: to w1, b1, w2, b2 and the slots of k, g1, x2
    and g2, of all heads.
    """
    w1, b1, w2, b2, k_slots, g1_slots, x2_slots, g2_slots = pointers
    HIDDEN: tl.constexpr = 4 * HEAD_DIM
    PART: tl.constexpr = HIDDEN // WARPS
    cols, slots = tl.arange(0, HEAD_DIM), tl.arange(0, SLOTS)
    rows, units = first_layer(HEAD_DIM, WARPS)
    others = second_layer(HEAD_DIM, WARPS)
    shared = tl.arange(0, WARPS)[:, None] * PART + tl.arange(0, PART)[None, :]
    slot = tl.arange(0, SLOTS // 8)[:, None, None, None] * 8 + tl.arange(0, 8)[None, None, :, None]
    narrow = head * SLOTS * HEAD_DIM + slots[:, None] * HEAD_DIM + cols[None, :]
    broad = head * SLOTS * HIDDEN + slot * HIDDEN + units
    norm = head % HEADS * HEAD_DIM + cols
    matrix = head * HEAD_DIM * HIDDEN
    return (
        tl.load(w1 + matrix + rows * HIDDEN + units),
        tl.load(w2 + matrix + others[:, :, :, None] * HEAD_DIM + cols[None, None, None, :]),
        tl.load(b1 + head * HIDDEN + shared),
        tl.load(b2 + head * HEAD_DIM + cols),
        tl.load(k_slots + narrow, (slots < now)[:, None], 0.0),
        tl.load(g1_slots + broad, slot < now, 0.0),
        tl.load(x2_slots + broad, slot < now, 0.0),
        tl.load(g2_slots + narrow, (slots < now)[:, None], 0.0),
        tl.load(norm_weight + norm),
        tl.load(norm_bias + norm),
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
    pointers,
    out,
    HEAD_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    EPS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """A head's step. pointers, state: of :func:`mlp_head_state`. q, k, v [F] in the state's dtype."""
    w1, b1, w2, b2, k_slots, g1_slots, x2_slots, g2_slots = pointers
    HIDDEN: tl.constexpr = 4 * HEAD_DIM
    w1_held, w2_held, bias1, bias2, keys, past_g1, past_x2, past_g2, gamma, beta, scale = state
    cols = tl.arange(0, HEAD_DIM)
    units = second_layer(HEAD_DIM, WARPS)
    mask = cols >= 0
    k_wide, q_wide, bias1, bias2 = k.to(tl.float32), q.to(tl.float32), bias1.to(tl.float32), bias2.to(tl.float32)
    gamma, beta = gamma.to(tl.float32), beta.to(tl.float32)
    w1, w2 = w1 + head * HEAD_DIM * HIDDEN, w2 + head * HEAD_DIM * HIDDEN
    b1, b2 = b1 + head * HIDDEN, b2 + head * HEAD_DIM
    k_slots, g2_slots = k_slots + head * SLOTS * HEAD_DIM, g2_slots + head * SLOTS * HEAD_DIM
    g1_slots, x2_slots = g1_slots + head * SLOTS * HIDDEN, x2_slots + head * SLOTS * HIDDEN

    # the first layer: the keys, and the query with the updates of the earlier tokens
    wide1 = w1_held.to(tl.float32)
    score1 = tl.sum(keys.to(tl.float32) * q_wide[None, :], 1) + 1.0
    updates1 = sum_of_rows(tl.reshape(score1, (SLOTS // 8, 1, 8, 1)) * past_g1.to(tl.float32))
    z_k = sum_of_rows(tl.reshape(k_wide, (HEAD_DIM // 8, 1, 8, 1)) * wide1) + bias1
    z_q = sum_of_rows(tl.reshape(q_wide, (HEAD_DIM // 8, 1, 8, 1)) * wide1) + bias1 - scale * updates1
    z_k, z_q = for_second(z_k, HEAD_DIM, WARPS), for_second(z_q, HEAD_DIM, WARPS)

    # the second layer, of the keys
    wide2 = w2_held.to(tl.float32)
    x2, slope = gelu_and_grad(z_k)
    x2 = x2.to(x2_slots.dtype.element_ty)
    tl.store(x2_slots + now * HIDDEN + units, x2)
    x2 = x2.to(tl.float32)
    z2 = tl.sum(tl.sum(tl.sum(x2[:, :, :, None] * wide2, 0), 1), 0) + bias2
    g2 = layer_norm_l2_grad(z2, v.to(tl.float32) - k_wide, gamma, beta, mask, HEAD_DIM, EPS) * rate
    g2 = g2.to(g2_slots.dtype.element_ty)
    g2_wide = g2.to(tl.float32)
    tl.store(k_slots + now * HEAD_DIM + cols, k)
    tl.store(g2_slots + now * HEAD_DIM + cols, g2)

    # the first layer's gradient, and the query through the second layer
    g1 = (tl.sum(wide2 * g2_wide[None, None, None, :], 3) * slope).to(g1_slots.dtype.element_ty)
    tl.store(g1_slots + now * HIDDEN + units, g1)
    query = gelu(z_q - scale * (tl.sum(k_wide * q_wide, 0) + 1.0) * g1.to(tl.float32))
    z2 = tl.sum(tl.sum(tl.sum(query[:, :, :, None] * wide2, 0), 1), 0) + bias2
    score2 = tl.sum(for_first(query, HEAD_DIM, WARPS)[None, :, None, :] * past_x2.to(tl.float32), 3)
    score2 = tl.reshape(tl.sum(score2, 1), (SLOTS,)) + 1.0
    current2 = tl.sum(tl.sum(tl.sum(query * x2, 0), 1), 0) + 1.0
    update2 = tl.sum(score2[:, None] * past_g2.to(tl.float32), 0) + current2 * g2_wide
    result = q_wide + layer_norm(z2 - scale * update2, gamma, beta, mask, HEAD_DIM, EPS)
    tl.store(out + head * HEAD_DIM + cols, result)

    if now == SLOTS - 1:
        mlp_fold(bias2, scale, w1, b1, w2, b2, k_slots, g1_slots, x2_slots, g2_slots, HEAD_DIM, HEAD_DIM, CHUNK, SLOTS)

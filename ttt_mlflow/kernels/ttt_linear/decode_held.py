"""TTT-Linear decode step in Triton with a head's matrix in the registers of its program, for few heads at a time.

Twin: :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_decode`. The arithmetic of ``linear_decode_head``. The state
is loaded in a function of its own, because it depends on no other stage of a decode step.

Limits: F a power of two; a head's matrix in the registers of its program.
"""

import triton
import triton.language as tl

from ttt_mlflow.kernels.functions import layer_norm, layer_norm_l2_grad


@triton.jit
def linear_head_state(
    head,
    now,
    eta,
    norm_weight,
    norm_bias,
    pointers,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """What :func:`linear_head_step` takes that depends on no other stage of the step: the state and the weights.

    ``head`` counts sequences and heads, sequence-major. pointers: to w, b and the slots of k and g, of all heads.
    """
    w, b, k_slots, g_slots = pointers
    cols, slots = tl.arange(0, HEAD_DIM), tl.arange(0, SLOTS)
    slot = head * SLOTS * HEAD_DIM + slots[:, None] * HEAD_DIM + cols[None, :]
    past = (slots < now)[:, None]
    norm = head % HEADS * HEAD_DIM + cols
    return (
        tl.load(w + head * HEAD_DIM * HEAD_DIM + cols[:, None] * HEAD_DIM + cols[None, :]),
        tl.load(k_slots + slot, past, 0.0),
        tl.load(g_slots + slot, past, 0.0),
        tl.load(b + head * HEAD_DIM + cols),
        tl.load(norm_weight + norm),
        tl.load(norm_bias + norm),
        tl.load(eta + now),
    )


@triton.jit
def linear_head_step(
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
    SLOTS: tl.constexpr,
    EPS: tl.constexpr,
):
    """A head's step. pointers, state: of :func:`linear_head_state`. q, k, v [F] in the state's dtype."""
    w, b, k_slots, g_slots = pointers
    matrix, keys, gradients, bias, gamma, beta, scale = state
    cols, slots = tl.arange(0, HEAD_DIM), tl.arange(0, SLOTS)
    mask = cols >= 0
    newest = head * SLOTS * HEAD_DIM + now * HEAD_DIM + cols
    k_wide, q_wide, bias = k.to(tl.float32), q.to(tl.float32), bias.to(tl.float32)
    gamma, beta, wide = gamma.to(tl.float32), beta.to(tl.float32), matrix.to(tl.float32)

    z_k = tl.sum(k_wide[:, None] * wide, 0) + bias
    z_q = tl.sum(q_wide[:, None] * wide, 0) + bias
    gradient = layer_norm_l2_grad(z_k, v.to(tl.float32) - k_wide, gamma, beta, mask, HEAD_DIM, EPS) * rate
    gradient = gradient.to(g_slots.dtype.element_ty)
    tl.store(k_slots + newest, k)
    tl.store(g_slots + newest, gradient)

    score = tl.sum(keys.to(tl.float32) * q_wide[None, :], 1) + 1.0
    update = tl.sum(score[:, None] * gradients.to(tl.float32), 0)
    update += (tl.sum(k_wide * q_wide, 0) + 1.0) * gradient.to(tl.float32)
    result = q_wide + layer_norm(z_q - scale * update, gamma, beta, mask, HEAD_DIM, EPS)
    tl.store(out + head * HEAD_DIM + cols, result)

    if now == SLOTS - 1:
        last = (slots == SLOTS - 1)[:, None]
        keys = tl.where(last, k[None, :], keys)
        gradients = tl.where(last, gradient[None, :], gradients)
        place = w + head * HEAD_DIM * HEAD_DIM + cols[:, None] * HEAD_DIM + cols[None, :]
        folded = tl.load(place).to(tl.float32)
        folded -= scale * tl.dot(tl.permute(keys, (1, 0)), gradients, input_precision="ieee")
        tl.store(place, folded)
        tl.store(b + head * HEAD_DIM + cols, bias - scale * tl.sum(gradients.to(tl.float32), 0))

"""TTT-Linear decode step in Triton for the heads that one program has, all at once, for few sequences.

Twin: :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_decode`. The arithmetic of ``linear_decode_head``. That
kernel has a program a head, and many programs hide each other's waits. Here a program has a multiprocessor for itself,
so its heads wait together: tensors have a leading axis of UNITS heads of one sequence. The state is loaded in a
function of its own, because it depends on no other stage of a decode step.

Limits: F a power of two; UNITS a power of two that divides the heads; all matrices of a program in its registers.
"""

import triton
import triton.language as tl

from ttt_mlflow.kernels.functions import layer_norm_l2_grad_rows, layer_norm_rows


@triton.jit
def linear_heads_state(
    head,
    now,
    wanted,
    eta,
    norm_weight,
    norm_bias,
    pointers,
    UNITS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """What :func:`linear_heads_step` takes that depends on no other stage of the step: the state and the weights.

    ``head``: the first one, counting sequences and heads, sequence-major. Nothing but zeros unless ``wanted``.
    pointers: to w, b and the slots of k and g, of all heads.
    """
    w, b, k_slots, g_slots = pointers
    units, cols, slots = head + tl.arange(0, UNITS), tl.arange(0, HEAD_DIM), tl.arange(0, SLOTS)
    vector = units[:, None] * HEAD_DIM + cols[None, :]
    matrix = units[:, None, None] * (HEAD_DIM * HEAD_DIM) + cols[None, :, None] * HEAD_DIM + cols[None, None, :]
    slot = units[:, None, None] * (SLOTS * HEAD_DIM) + slots[None, :, None] * HEAD_DIM + cols[None, None, :]
    past = ((slots < now) & wanted)[None, :, None]
    norm = (units % HEADS)[:, None] * HEAD_DIM + cols[None, :]
    return (
        tl.load(w + matrix, wanted, 0.0),
        tl.load(k_slots + slot, past, 0.0),
        tl.load(g_slots + slot, past, 0.0),
        tl.load(b + vector, wanted, 0.0),
        tl.load(norm_weight + norm, wanted, 0.0),
        tl.load(norm_bias + norm, wanted, 0.0),
        tl.load(eta + now),
    )


@triton.jit
def linear_heads_step(
    head,
    now,
    state,
    k,
    q,
    v,
    rate,
    pointers,
    out,
    UNITS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SLOTS: tl.constexpr,
    EPS: tl.constexpr,
):
    """The heads' step. pointers, state: of :func:`linear_heads_state`. q, k, v [UNITS, F] in the state's dtype; rate
    [UNITS]."""
    w, b, k_slots, g_slots = pointers
    matrix, keys, gradients, bias, gamma, beta, scale = state
    units, cols, slots = head + tl.arange(0, UNITS), tl.arange(0, HEAD_DIM), tl.arange(0, SLOTS)
    vector = units[:, None] * HEAD_DIM + cols[None, :]
    newest = units[:, None] * (SLOTS * HEAD_DIM) + now * HEAD_DIM + cols[None, :]
    k_wide, q_wide, bias = k.to(tl.float32), q.to(tl.float32), bias.to(tl.float32)
    gamma, beta, wide = gamma.to(tl.float32), beta.to(tl.float32), matrix.to(tl.float32)

    z_k = tl.sum(k_wide[:, :, None] * wide, 1) + bias
    z_q = tl.sum(q_wide[:, :, None] * wide, 1) + bias
    gradient = layer_norm_l2_grad_rows(z_k, v.to(tl.float32) - k_wide, gamma, beta, HEAD_DIM, EPS) * rate[:, None]
    gradient = gradient.to(g_slots.dtype.element_ty)
    tl.store(k_slots + newest, k)
    tl.store(g_slots + newest, gradient)

    score = tl.sum(keys.to(tl.float32) * q_wide[:, None, :], 2) + 1.0
    update = tl.sum(score[:, :, None] * gradients.to(tl.float32), 1)
    update += (tl.sum(k_wide * q_wide, 1) + 1.0)[:, None] * gradient.to(tl.float32)
    result = q_wide + layer_norm_rows(z_q - scale * update, gamma, beta, HEAD_DIM, EPS)
    tl.store(out + vector, result)

    if now == SLOTS - 1:
        last = (slots == SLOTS - 1)[None, :, None]
        keys = tl.where(last, k[:, None, :], keys)
        gradients = tl.where(last, gradient[:, None, :], gradients)
        place = units[:, None, None] * (HEAD_DIM * HEAD_DIM) + cols[None, :, None] * HEAD_DIM + cols[None, None, :]
        folded = tl.load(w + place).to(tl.float32)
        folded -= scale * tl.dot(tl.permute(keys, (0, 2, 1)), gradients, input_precision="ieee")
        tl.store(w + place, folded)
        tl.store(b + vector, bias - scale * tl.sum(gradients.to(tl.float32), 1))

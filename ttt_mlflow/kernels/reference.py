"""What each kernel means, in plain PyTorch.

Every Triton kernel of this package has its twin here, with the same name and signature. These functions are also
the model on a CPU, and ``linear_decode`` and ``mlp_decode`` are the inner nets ``mlp_1_dual`` and ``mlp_2_dual``.

Letters of the shapes: B sequences, D model width, H heads, F head dimension (D = H F), M = 16 tokens of a
mini-batch, N = 4 F, I feed-forward width. ``position`` is an int32 tensor [1] on the device: the token's index in its
mini-batch. Nothing here reads it back to the host, so that one CUDA graph serves every position.

Products with the state matrices are in float32, arithmetic on vectors in float64, and each function rounds its outputs
to the dtype of its inputs once. The float64 is not for precision: it makes the result independent of the order in
which a reduction sums and of whether a multiply and an add are fused, so that a compiled step gives the same bits, and
the same greedy tokens, as an eager one. Next to the state the vectors are small.

Source of the update rule: Sun et al. 2024, arXiv 2407.04620, sections 2.4 to 2.7.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_mlflow.kernels.opaque import opaque

NORM_EPS = 1e-6
MINI_BATCH = 16
CONV_TAPS = 4  # the causal convolution's width; it divides the mini-batch, so a ring slot follows from `position`


def matrix(x: Tensor) -> Tensor:
    """``x`` in the dtype of products with the state: float32, or float64 for float64 state."""
    return x if x.dtype == torch.float64 else x.float()


def _product(x: Tensor, w: Tensor) -> Tensor:
    return torch.empty(*x.shape[:-1], w.shape[-1], dtype=torch.float64, device=x.device)


@opaque(shapes=_product)
def times(x: Tensor, w: Tensor) -> Tensor:
    """x @ w for vectors x in float64 and a matrix w from :func:`matrix`; the product in w's dtype, then float64.

    Opaque because the compiler hands x over with other strides, and the BLAS then sums in another order.
    """
    return (x.to(w.dtype) @ w).double()


def rms_norm(x: Tensor, weight: Tensor, eps: float = NORM_EPS) -> Tensor:
    """x [..., D] over its root mean square, times ``weight`` [D]; unrounded."""
    x = x.double()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.double()


def add_rms_norm(hidden: Tensor, delta: Tensor, weight: Tensor, eps: float = NORM_EPS) -> tuple[Tensor, Tensor]:
    """hidden + delta [B, D], and its RMS norm [B, D]."""
    hidden = (hidden.double() + delta.double()).to(hidden.dtype)
    return hidden, rms_norm(hidden, weight, eps).to(hidden.dtype)


def _ring_conv(x: Tensor, ring: Tensor, position: Tensor) -> list[Tensor]:
    """Write x [B, D] into its slot of ``ring`` [B, 4, D]; return the last four inputs, oldest first."""
    ring.index_copy_(1, (position % CONV_TAPS).long(), x.unsqueeze(1))
    slots = (position + 1 + torch.arange(CONV_TAPS, device=position.device)) % CONV_TAPS
    return list(ring.index_select(1, slots.long()).double().unbind(1))


def conv_rms_norm(
    hidden: Tensor,
    delta: Tensor,
    ring: Tensor,
    position: Tensor,
    conv_norm_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    norm_weight: Tensor,
    eps: float = NORM_EPS,
) -> tuple[Tensor, Tensor]:
    """The head of a layer: residual, norm, causal convolution, residual, norm.

    hidden, delta [B, D]; ring [B, 4, D] (updated); conv_weight [4, D], newest tap last; the rest [D].
    Returns the new residual stream and its norm, both [B, D].
    """
    dtype = hidden.dtype
    hidden, x = add_rms_norm(hidden, delta, conv_norm_weight, eps)
    taps = _ring_conv(x, ring, position)
    conv = sum((tap * conv_weight[i].double() for i, tap in enumerate(taps)), conv_bias.double())
    hidden = (hidden.double() + conv).to(dtype)
    return hidden, rms_norm(hidden, norm_weight, eps).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., F]; cos, sin [..., F / 2]; neighbouring dimensions (2i, 2i + 1) are a pair."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def qk_conv_rotary(
    x: Tensor,
    lr_logits: Tensor,
    ring: Tensor,
    position: Tensor,
    q_weight: Tensor,
    q_bias: Tensor,
    k_weight: Tensor,
    k_bias: Tensor,
    lr_bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    base_lr: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Q and K from their shared projection, and the token's learning rate.

    x [B, D], the shared projection (rows may be strided); lr_logits [B, H]; ring [B, 4, D] (updated);
    q_weight, k_weight [4, D]; q_bias, k_bias [D]; lr_bias [H]; cos, sin [M, F / 2] float32.
    Returns q, k [B, D] in x's dtype and lr [B, H] float32: base_lr · sigmoid(logit + bias) / F.
    """
    heads = lr_logits.shape[1]
    taps = _ring_conv(x, ring, position)
    cos, sin = cos.index_select(0, position.long()), sin.index_select(0, position.long())

    def filtered(weight: Tensor, bias: Tensor) -> Tensor:
        y = sum((tap * weight[i].double() for i, tap in enumerate(taps)), bias.double())
        return rotate(y.unflatten(-1, (heads, -1)), cos, sin).flatten(-2).to(x.dtype)

    lr = base_lr * torch.sigmoid(lr_logits.double() + lr_bias.double()) / (x.shape[1] // heads)
    return filtered(q_weight, q_bias), filtered(k_weight, k_bias), lr.float()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    """Layer norm over the last dimension; unrounded."""
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight + bias


def layer_norm_l2_grad(z: Tensor, target: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    """∂/∂z of ½‖LN(z) - target‖², over the last dimension."""
    width = z.shape[-1]
    centred = z - z.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normed = centred * rstd
    grad = (normed * weight + bias - target) * weight
    inner = grad.sum(-1, keepdim=True) + normed * (grad * normed).sum(-1, keepdim=True)
    return (grad - inner / width) * rstd


GELU_SCALE = 0.7978845608028654  # sqrt(2 / pi)
GELU_CUBIC = 0.044715


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def gelu_grad(x: Tensor) -> Tensor:
    """Derivative of the tanh-approximated GELU."""
    t = torch.tanh(GELU_SCALE * x * (1 + GELU_CUBIC * x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x)


def _write_slot(slots: Tensor, position: Tensor, row: Tensor) -> Tensor:
    """Write row [B, H, 1, X] at ``position`` of slots [B, H, M, X]; return the used slots, the rest zero.

    Unused slots may hold anything, NaN included, so they are replaced and not multiplied by zero.
    """
    slots.index_copy_(2, position.long(), row.to(slots.dtype))
    used = torch.arange(slots.shape[2], device=slots.device) <= position
    return torch.where(used[:, None], slots.double(), 0)


def _combined(x: Tensor, keys: Tensor, gradients: Tensor) -> Tensor:
    """Σ_i (x · k_i + 1) g_i: what the slots add for x [B, H, 1, X], their biases' part included."""
    scores = (x * keys).sum(-1, keepdim=True) + 1  # [B, H, M, 1]
    return (scores * gradients).sum(2, keepdim=True)


def _fold(state: Tensor, position: Tensor, update: Tensor) -> None:
    """state -= update after the last token of a mini-batch; at other positions the state stays, bit for bit."""
    folded = (matrix(state) - update).to(state.dtype)
    state.copy_(torch.where(position == MINI_BATCH - 1, folded, state))


def _outer(left: Tensor, right: Tensor, like: Tensor) -> Tensor:
    """Σ_i left_iᵀ right_i for rows [B, H, i, ...], in the dtype of products with ``like``."""
    dtype = matrix(like).dtype
    return left.to(dtype).mT @ right.to(dtype)


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
) -> Tensor:
    """One TTT-Linear decode step in the rank-1 form.

    q, k, v [B, D] (rows may be strided); lr [B, H] float32; eta [M] float32, the token scale of each position;
    norm_weight, norm_bias [H, F]. State, updated in place: w [B, H, F, F], b [B, H, F], as they were when the
    mini-batch began; k_slots, g_slots [B, H, M, F], this mini-batch's keys and gradients.
    Returns out [B, D] in q's dtype.
    """
    dtype, heads = q.dtype, w.shape[1]
    q, k, v = (x.double().unflatten(-1, (heads, 1, -1)) for x in (q, k, v))  # [B, H, 1, F]
    gamma, beta = norm_weight.double().unsqueeze(1), norm_bias.double().unsqueeze(1)  # [H, 1, F]
    weight, bias = matrix(w), b.double().unsqueeze(2)

    gradient = layer_norm_l2_grad(times(k, weight) + bias, v - k, gamma, beta) * lr.double()[:, :, None, None]
    keys = _write_slot(k_slots, position, k)
    gradients = _write_slot(g_slots, position, gradient)

    scale = eta.index_select(0, position.long()).double()
    z = times(q, weight) + bias - scale * _combined(q, keys, gradients)
    out = q + layer_norm(z, gamma, beta)
    _fold(w, position, _outer(scale * keys, gradients, w))
    _fold(b, position, scale * gradients.sum(2))
    return out.flatten(1).to(dtype)


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
    """One TTT-MLP decode step in the rank-1 form.

    As :func:`linear_decode`, with the state w1 [B, H, F, N], b1 [B, H, N], w2 [B, H, N, F], b2 [B, H, F] and the
    slots k, g2 [B, H, M, F], g1, x2 [B, H, M, N] (x2: the second layer's inputs).
    """
    dtype, heads = q.dtype, w1.shape[1]
    q, k, v = (x.double().unflatten(-1, (heads, 1, -1)) for x in (q, k, v))  # [B, H, 1, F]
    gamma, beta = norm_weight.double().unsqueeze(1), norm_bias.double().unsqueeze(1)  # [H, 1, F]
    weight1, bias1 = matrix(w1), b1.double().unsqueeze(2)
    weight2, bias2 = matrix(w2), b2.double().unsqueeze(2)

    z1 = times(k, weight1) + bias1  # [B, H, 1, N]
    x2 = gelu(z1)
    g2 = layer_norm_l2_grad(times(x2, weight2) + bias2, v - k, gamma, beta) * lr.double()[:, :, None, None]
    g1 = times(g2, weight2.mT) * gelu_grad(z1)
    keys, first_gradients = _write_slot(k_slots, position, k), _write_slot(g1_slots, position, g1)
    inputs, gradients = _write_slot(x2_slots, position, x2), _write_slot(g2_slots, position, g2)

    scale = eta.index_select(0, position.long()).double()
    x2 = gelu(times(q, weight1) + bias1 - scale * _combined(q, keys, first_gradients))
    z2 = times(x2, weight2) + bias2 - scale * _combined(x2, inputs, gradients)
    out = q + layer_norm(z2, gamma, beta)
    _fold(w1, position, _outer(scale * keys, first_gradients, w1))
    _fold(b1, position, scale * first_gradients.sum(2))
    _fold(w2, position, _outer(scale * inputs, gradients, w2))
    _fold(b2, position, scale * gradients.sum(2))
    return out.flatten(1).to(dtype)


def _accumulate(total: Tensor, position: Tensor, gradient: Tensor) -> Tensor:
    """The running sum with this token's gradient, unrounded.

    At position 0 what ``total`` holds, NaN included, counts as zero. ``total`` is updated, except by the last token,
    after which the next mini-batch's sum begins.
    """
    summed = torch.where(position == 0, 0, matrix(total)) + gradient
    total.copy_(torch.where(position == MINI_BATCH - 1, total, summed.to(total.dtype)))
    return summed


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
    """One TTT-Linear decode step in the accumulating form.

    As :func:`linear_decode`, with the sums of this mini-batch's gradients, w_sum [B, H, F, F] and b_sum [B, H, F], in
    place of the vectors. The output is made from the sums before they are rounded to the state's dtype.
    """
    dtype, heads = q.dtype, w.shape[1]
    q, k, v = (x.double().unflatten(-1, (heads, 1, -1)) for x in (q, k, v))  # [B, H, 1, F]
    gamma, beta = norm_weight.double().unsqueeze(1), norm_bias.double().unsqueeze(1)  # [H, 1, F]
    weight, bias = matrix(w), b.double().unsqueeze(2)

    gradient = layer_norm_l2_grad(times(k, weight) + bias, v - k, gamma, beta) * lr.double()[:, :, None, None]
    summed = _accumulate(w_sum, position, _outer(k, gradient, w))
    b_summed = _accumulate(b_sum, position, gradient.squeeze(2)).double()

    scale = eta.index_select(0, position.long()).double()
    z = times(q, weight) + bias - scale * (times(q, summed) + b_summed.unsqueeze(2))
    out = q + layer_norm(z, gamma, beta)
    _fold(w, position, scale.to(summed.dtype) * summed)
    _fold(b, position, scale * b_summed)
    return out.flatten(1).to(dtype)


def mlp_accumulate(
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
    w1_sum: Tensor,
    b1_sum: Tensor,
    w2_sum: Tensor,
    b2_sum: Tensor,
) -> Tensor:
    """One TTT-MLP decode step in the accumulating form.

    As :func:`linear_accumulate`, with the state of :func:`mlp_decode` and a sum of each state tensor's shape.
    """
    dtype, heads = q.dtype, w1.shape[1]
    q, k, v = (x.double().unflatten(-1, (heads, 1, -1)) for x in (q, k, v))  # [B, H, 1, F]
    gamma, beta = norm_weight.double().unsqueeze(1), norm_bias.double().unsqueeze(1)  # [H, 1, F]
    weight1, bias1 = matrix(w1), b1.double().unsqueeze(2)
    weight2, bias2 = matrix(w2), b2.double().unsqueeze(2)

    z1 = times(k, weight1) + bias1  # [B, H, 1, N]
    x2 = gelu(z1)
    g2 = layer_norm_l2_grad(times(x2, weight2) + bias2, v - k, gamma, beta) * lr.double()[:, :, None, None]
    g1 = times(g2, weight2.mT) * gelu_grad(z1)
    summed1 = _accumulate(w1_sum, position, _outer(k, g1, w1))
    b1_summed = _accumulate(b1_sum, position, g1.squeeze(2)).double()
    summed2 = _accumulate(w2_sum, position, _outer(x2, g2, w2))
    b2_summed = _accumulate(b2_sum, position, g2.squeeze(2)).double()

    scale = eta.index_select(0, position.long()).double()
    query = gelu(times(q, weight1) + bias1 - scale * (times(q, summed1) + b1_summed.unsqueeze(2)))
    z2 = times(query, weight2) + bias2 - scale * (times(query, summed2) + b2_summed.unsqueeze(2))
    out = q + layer_norm(z2, gamma, beta)
    for state, summed in ((w1, summed1), (b1, b1_summed), (w2, summed2), (b2, b2_summed)):
        _fold(state, position, scale.to(summed.dtype) * summed)
    return out.flatten(1).to(dtype)


def gated_layer_norm(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    """gelu(gate) · LN(x), all [B, D] (gate's rows may be strided); weight, bias [D]."""
    return (gelu(gate.double()) * layer_norm(x.double(), weight.double(), bias.double(), eps)).to(x.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up for gate_up [B, 2 I]; returns [B, I]."""
    gate, up = gate_up.double().chunk(2, -1)
    return (F.silu(gate) * up).to(gate_up.dtype)

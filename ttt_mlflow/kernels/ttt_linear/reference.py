"""TTT-Linear in plain PyTorch: one decode step in both forms, and a whole prompt in the dual form.

The inner model is f(x) = x + LN(x W + b). Its loss for a token is ½‖f(k) - v‖², so the target of LN is v - k. Within a
mini-batch, every gradient is taken at the state at the start of the mini-batch. A token's output uses the gradients up
to its own. Source: Sun et al. 2024, arXiv 2407.04620, sections 2.4 (mini-batches), 2.5 (dual form) and 2.7 (the
inner model and its learning rate). docs/rank-1-form.md derives the decode step. Letters of the shapes:
:mod:`ttt_mlflow.kernels`.
"""

import torch
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import (
    layer_norm,
    layer_norm_l2_grad,
    matrix,
    times,
)
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.kernels.mini_batch import accumulate, combined, fold, outer, parts, rows_by_head, write_slot


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
    """One TTT-Linear decode step in the rank-1 form: a mini-batch's update as a sum of outer products k_iᵀ g_i.

    q, k, v [B, D] (rows may be strided); lr [B, H] float32, the token's inner learning rate; eta [M] float32, the
    token scale of each position; position [1] int32; norm_weight, norm_bias [H, F], of the inner layer norm.
    State, updated in place: w [B, H, F, F], b [B, H, F], as at the start of the mini-batch; only the last token changes
    them. k_slots, g_slots [B, H, M, F], this mini-batch's keys and gradients (slots of later positions may contain
    anything, including NaN). Returns out [B, D] in q's dtype.
    """
    dtype, heads = q.dtype, w.shape[1]
    q, k, v = (x.double().unflatten(-1, (heads, 1, -1)) for x in (q, k, v))  # [B, H, 1, F]
    gamma, beta = norm_weight.double().unsqueeze(1), norm_bias.double().unsqueeze(1)  # [H, 1, F]
    weight, bias = matrix(w), b.double().unsqueeze(2)

    gradient = layer_norm_l2_grad(times(k, weight) + bias, v - k, gamma, beta) * lr.double()[:, :, None, None]
    keys = write_slot(k_slots, position, k)
    gradients = write_slot(g_slots, position, gradient)

    scale = eta.index_select(0, position.long()).double()
    z = times(q, weight) + bias - scale * combined(q, keys, gradients)
    out = q + layer_norm(z, gamma, beta)
    fold(w, position, outer(scale * keys, gradients, w))
    fold(b, position, scale * gradients.sum(2))
    return out.flatten(1).to(dtype)


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
    """One TTT-Linear decode step in the accumulating form: a mini-batch's update as running sums.

    As :func:`linear_decode`, with the sums of this mini-batch's gradients, w_sum [B, H, F, F] and b_sum [B, H, F],
    instead of the vectors. At position 0, the sums may contain anything and count as zero. The output is computed from
    the sums before they are rounded to the state's dtype.
    """
    dtype, heads = q.dtype, w.shape[1]
    q, k, v = (x.double().unflatten(-1, (heads, 1, -1)) for x in (q, k, v))  # [B, H, 1, F]
    gamma, beta = norm_weight.double().unsqueeze(1), norm_bias.double().unsqueeze(1)  # [H, 1, F]
    weight, bias = matrix(w), b.double().unsqueeze(2)

    gradient = layer_norm_l2_grad(times(k, weight) + bias, v - k, gamma, beta) * lr.double()[:, :, None, None]
    summed = accumulate(w_sum, position, outer(k, gradient, w))
    b_summed = accumulate(b_sum, position, gradient.squeeze(2)).double()

    scale = eta.index_select(0, position.long()).double()
    z = times(q, weight) + bias - scale * (times(q, summed) + b_summed.unsqueeze(2))
    out = q + layer_norm(z, gamma, beta)
    fold(w, position, scale.to(summed.dtype) * summed)
    fold(b, position, scale * b_summed)
    return out.flatten(1).to(dtype)


def linear_prefill(
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
    """A prompt of any length through TTT-Linear, in the dual form: matrix products over a mini-batch's tokens.

    q, k, v [B, L, D] (rows of v may be strided); lr [B, H, L] float32; position [1] int32, that of the first token; the
    others as for :func:`linear_decode`, state and slots too: afterwards, they are as if the prompt had been fed token
    by token, up to rounding. The state is rounded once, at the end. Returns out [B, L, D] in q's dtype.
    """
    out, heads = torch.empty_like(q), w.shape[1]
    gamma, beta = matrix(norm_weight).unsqueeze(1), matrix(norm_bias).unsqueeze(1)  # [H, 1, F]
    weight, bias = matrix(w), matrix(b).unsqueeze(2)
    rates, scale = lr.to(weight.dtype).unsqueeze(-1), eta.to(weight.dtype).unsqueeze(-1)
    for tokens, positions in parts(int(position), q.shape[1]):
        queries, keys, values = (rows_by_head(x, tokens, heads) for x in (q, k, v))  # [B, H, tokens, F]
        gradients = rates[:, :, tokens] * layer_norm_l2_grad(keys @ weight + bias, values - keys, gamma, beta)
        k_slots[:, :, positions], g_slots[:, :, positions] = keys, gradients
        keys, gradients = (matrix(slots[:, :, : positions.stop]) for slots in (k_slots, g_slots))
        scores = torch.tril(queries @ keys.mT + 1, positions.start)
        z = queries @ weight + bias - scale[positions] * (scores @ gradients)
        out[:, tokens] = (queries + layer_norm(z, gamma, beta)).transpose(1, 2).flatten(-2)
        if positions.stop == MINI_BATCH:
            weight = weight - scale[-1] * (keys.mT @ gradients)
            bias = bias - scale[-1] * gradients.sum(2, keepdim=True)
    w.copy_(weight)
    b.copy_(bias.squeeze(2))
    return out

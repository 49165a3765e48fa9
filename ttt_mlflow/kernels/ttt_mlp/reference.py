"""TTT-MLP in plain PyTorch: one decode step in both forms, and a whole prompt in the dual form.

The inner model is f(x) = x + LN(GELU(x W1 + b1) W2 + b2), with N = 4 F between its two layers and the tanh-approximated
GELU. Loss, mini-batches and learning rate are as in :mod:`ttt_mlflow.kernels.ttt_linear.reference`. Source: Sun et al.
2024, arXiv 2407.04620, sections 2.4, 2.5 and 2.7; the dual form of an MLP is in its appendix. Letters of the shapes:
:mod:`ttt_mlflow.kernels`.
"""

import torch
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import (
    gelu,
    gelu_grad,
    layer_norm,
    layer_norm_l2_grad,
    matrix,
    times,
)
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.kernels.mini_batch import accumulate, combined, fold, outer, parts, rows_by_head, write_slot


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

    As :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_decode`, with the state w1 [B, H, F, N], b1 [B, H, N],
    w2 [B, H, N, F], b2 [B, H, F]. Slots: k_slots [B, H, M, F] and g1_slots [B, H, M, N], the first layer's inputs (the
    keys) and gradients; x2_slots [B, H, M, N] and g2_slots [B, H, M, F], the second layer's. Returns out [B, D] in
    q's dtype.
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
    keys, first_gradients = write_slot(k_slots, position, k), write_slot(g1_slots, position, g1)
    inputs, gradients = write_slot(x2_slots, position, x2), write_slot(g2_slots, position, g2)

    scale = eta.index_select(0, position.long()).double()
    x2 = gelu(times(q, weight1) + bias1 - scale * combined(q, keys, first_gradients))
    z2 = times(x2, weight2) + bias2 - scale * combined(x2, inputs, gradients)
    out = q + layer_norm(z2, gamma, beta)
    fold(w1, position, outer(scale * keys, first_gradients, w1))
    fold(b1, position, scale * first_gradients.sum(2))
    fold(w2, position, outer(scale * inputs, gradients, w2))
    fold(b2, position, scale * gradients.sum(2))
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

    As :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_accumulate`, with the state of :func:`mlp_decode` and one
    sum for each state tensor, of that tensor's shape. Returns out [B, D] in q's dtype.
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
    summed1 = accumulate(w1_sum, position, outer(k, g1, w1))
    b1_summed = accumulate(b1_sum, position, g1.squeeze(2)).double()
    summed2 = accumulate(w2_sum, position, outer(x2, g2, w2))
    b2_summed = accumulate(b2_sum, position, g2.squeeze(2)).double()

    scale = eta.index_select(0, position.long()).double()
    query = gelu(times(q, weight1) + bias1 - scale * (times(q, summed1) + b1_summed.unsqueeze(2)))
    z2 = times(query, weight2) + bias2 - scale * (times(query, summed2) + b2_summed.unsqueeze(2))
    out = q + layer_norm(z2, gamma, beta)
    for state, summed in ((w1, summed1), (b1, b1_summed), (w2, summed2), (b2, b2_summed)):
        fold(state, position, scale.to(summed.dtype) * summed)
    return out.flatten(1).to(dtype)


def mlp_prefill(
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
    """A prompt of any length through TTT-MLP, in the dual form.

    As :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_prefill`, with the state and slots of :func:`mlp_decode`.
    Returns out [B, L, D] in q's dtype.
    """
    out, heads = torch.empty_like(q), w1.shape[1]
    gamma, beta = matrix(norm_weight).unsqueeze(1), matrix(norm_bias).unsqueeze(1)  # [H, 1, F]
    weight1, bias1, weight2, bias2 = matrix(w1), matrix(b1).unsqueeze(2), matrix(w2), matrix(b2).unsqueeze(2)
    rates, scale = lr.to(weight1.dtype).unsqueeze(-1), eta.to(weight1.dtype).unsqueeze(-1)
    all_slots = (k_slots, g1_slots, x2_slots, g2_slots)
    for tokens, positions in parts(int(position), q.shape[1]):
        queries, keys, values = (rows_by_head(x, tokens, heads) for x in (q, k, v))  # [B, H, tokens, F]
        z1 = keys @ weight1 + bias1
        x2 = gelu(z1)
        g2 = rates[:, :, tokens] * layer_norm_l2_grad(x2 @ weight2 + bias2, values - keys, gamma, beta)
        g1 = (g2 @ weight2.mT) * gelu_grad(z1)
        for slots, rows in zip(all_slots, (keys, g1, x2, g2), strict=True):
            slots[:, :, positions] = rows
        keys, g1, x2, g2 = (matrix(slots[:, :, : positions.stop]) for slots in all_slots)
        scores = torch.tril(queries @ keys.mT + 1, positions.start)
        hidden = gelu(queries @ weight1 + bias1 - scale[positions] * (scores @ g1))
        scores = torch.tril(hidden @ x2.mT + 1, positions.start)
        z2 = hidden @ weight2 + bias2 - scale[positions] * (scores @ g2)
        out[:, tokens] = (queries + layer_norm(z2, gamma, beta)).transpose(1, 2).flatten(-2)
        if positions.stop == MINI_BATCH:
            weight1 = weight1 - scale[-1] * (keys.mT @ g1)
            bias1 = bias1 - scale[-1] * g1.sum(2, keepdim=True)
            weight2 = weight2 - scale[-1] * (x2.mT @ g2)
            bias2 = bias2 - scale[-1] * g2.sum(2, keepdim=True)
    for state, new in ((w1, weight1), (b1, bias1.squeeze(2)), (w2, weight2), (b2, bias2.squeeze(2))):
        state.copy_(new)
    return out

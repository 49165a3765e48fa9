"""TTT-MLP in plain PyTorch: one decode step in both forms, and a whole mini-batch in the dual form.

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
from ttt_mlflow.kernels.mini_batch import accumulate, combined, fold, outer, write_slot


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


def mlp_dual(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    eta: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
) -> Tensor:
    """A whole mini-batch of TTT-MLP, in the dual form.

    As :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_dual`, with the state of :func:`mlp_decode`. Returns out
    [B, H, M, F], unrounded.
    """
    w1_wide, b1_wide, w2_wide, b2_wide = matrix(w1), matrix(b1).unsqueeze(2), matrix(w2), matrix(b2).unsqueeze(2)
    z1 = k @ w1_wide + b1_wide
    x2 = gelu(z1)
    g2 = lr * layer_norm_l2_grad(x2 @ w2_wide + b2_wide, v - k, gamma, beta)
    g1 = (g2 @ w2_wide.mT) * gelu_grad(z1)
    query = gelu(q @ w1_wide + b1_wide - eta * (torch.tril(q @ k.mT + 1) @ g1))
    z2 = query @ w2_wide + b2_wide - eta * (torch.tril(query @ x2.mT + 1) @ g2)
    w1.copy_(w1_wide - eta[-1] * (k.mT @ g1))
    b1.copy_((b1_wide - eta[-1] * g1.sum(2, keepdim=True)).squeeze(2))
    w2.copy_(w2_wide - eta[-1] * (x2.mT @ g2))
    b2.copy_((b2_wide - eta[-1] * g2.sum(2, keepdim=True)).squeeze(2))
    return q + layer_norm(z2, gamma, beta)

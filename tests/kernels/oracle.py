"""TTT's update rule from the paper's equations in float64: gradients by autograd, no form rearranged.

Sun et al. 2024, arXiv 2407.04620: W_t = W_0 − η_t Σ_{i≤t} ℓ_i ∇ ½‖f(k_i; W_0) − (v_i − k_i)‖² and
out_t = q_t + f(q_t; W_t), with f the layer norm of a linear map or of a two-layer MLP, and W_0 the weights at the
mini-batch's beginning.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6


def forward(x: Tensor, params: list[Tensor], gamma: Tensor, beta: Tensor) -> Tensor:
    """f(x): x [B, H, F]; params W [B, H, F, F], b [B, H, F], or both layers of the MLP."""
    z = torch.einsum("bhf,bhfn->bhn", x, params[0]) + params[1]
    if len(params) == 4:
        z = torch.einsum("bhn,bhnf->bhf", F.gelu(z, approximate="tanh"), params[2]) + params[3]
    return F.layer_norm(z, z.shape[-1:], eps=EPS) * gamma + beta


def decode(
    q: Tensor, k: Tensor, v: Tensor, lr: Tensor, eta: Tensor, gamma: Tensor, beta: Tensor, params: list[Tensor]
) -> tuple[Tensor, list[list[Tensor]]]:
    """q, k, v [T, B, H, F], lr [T, B, H], eta [M]; returns outputs [T, B, H, F] and the states.

    The state is what a mini-batch began with: it changes when a mini-batch is complete. The first of the states is
    ``params``, then one follows for each complete mini-batch.
    """
    params = [p.double() for p in params]
    q, k, v, lr, eta, gamma, beta = (x.double() for x in (q, k, v, lr, eta, gamma, beta))
    size = len(eta)
    outputs, states, sums = [], [params], [torch.zeros_like(p) for p in params]
    for t in range(len(q)):
        position = t % size
        leaves = [p.clone().requires_grad_() for p in params]
        error = forward(k[t], leaves, gamma, beta) - (v[t] - k[t])
        loss = (lr[t] * 0.5 * error.square().sum(-1)).sum()
        sums = [s + g for s, g in zip(sums, torch.autograd.grad(loss, leaves), strict=True)]
        now = [p - eta[position] * s for p, s in zip(params, sums, strict=True)]
        outputs.append(q[t] + forward(q[t], now, gamma, beta))
        if position == size - 1:
            params, sums = now, [torch.zeros_like(p) for p in params]
            states.append(params)
    return torch.stack(outputs), states

"""The inner nets: state, one decode step, and a whole mini-batch in the dual form.

An inner net is chosen by name; PyTorch and Triton variants share state and dual form and differ in the decode step.
Shapes as in :mod:`ttt_mlflow.kernels.reference`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ttt_mlflow.kernels import reference
from ttt_mlflow.kernels.reference import gelu, gelu_grad, layer_norm, layer_norm_l2_grad, matrix


@dataclass(frozen=True)
class InnerNet:
    """One inner net. ``state_names`` are the published weights that a sequence's state starts from."""

    name: str
    layer_type: str
    decode: Callable[..., Tensor]
    dual: Callable[..., Tensor]
    triton: bool

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("W1", "b1") if self.layer_type == "linear" else ("W1", "b1", "W2", "b2")

    def slot_widths(self, head_dim: int) -> tuple[int, ...]:
        """Widths of the vectors that are kept for each token of a mini-batch."""
        if self.layer_type == "linear":
            return head_dim, head_dim
        return head_dim, 4 * head_dim, 4 * head_dim, head_dim


def linear_dual(
    q: Tensor, k: Tensor, v: Tensor, lr: Tensor, eta: Tensor, gamma: Tensor, beta: Tensor, w: Tensor, b: Tensor
) -> Tensor:
    """A whole mini-batch of TTT-Linear, in the dual form.

    q, k, v [B, H, M, F] and lr [B, H, M, 1] in the dtype of the arithmetic; eta [M, 1]; gamma, beta [H, 1, F];
    w [B, H, F, F], b [B, H, F], updated in place. Returns out [B, H, M, F].
    """
    w_wide, b_wide = matrix(w), matrix(b).unsqueeze(2)
    gradients = lr * layer_norm_l2_grad(k @ w_wide + b_wide, v - k, gamma, beta)
    z = q @ w_wide + b_wide - eta * (torch.tril(q @ k.mT + 1) @ gradients)
    w.copy_(w_wide - eta[-1] * (k.mT @ gradients))
    b.copy_((b_wide - eta[-1] * gradients.sum(2, keepdim=True)).squeeze(2))
    return q + layer_norm(z, gamma, beta)


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
    """A whole mini-batch of TTT-MLP; as :func:`linear_dual` with both layers of state."""
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


def _triton_linear(*arguments: Tensor) -> Tensor:
    from ttt_mlflow.kernels.ttt_linear_decode import linear_decode

    return linear_decode(*arguments, overlap=True)  # the launch before it makes q, k and lr


def _triton_mlp(*arguments: Tensor) -> Tensor:
    from ttt_mlflow.kernels.ttt_mlp_decode import mlp_decode

    return mlp_decode(*arguments, overlap=True)


INNER_NETS = {
    net.name: net
    for net in (
        InnerNet("mlp_1_dual", "linear", reference.linear_decode, linear_dual, triton=False),
        InnerNet("mlp_2_dual", "mlp", reference.mlp_decode, mlp_dual, triton=False),
        InnerNet("mlp_1_dual_triton", "linear", _triton_linear, linear_dual, triton=True),
        InnerNet("mlp_2_dual_triton", "mlp", _triton_mlp, mlp_dual, triton=True),
    )
}
assert reference.MINI_BATCH % reference.CONV_TAPS == 0  # a ring slot of the convolutions follows from the position

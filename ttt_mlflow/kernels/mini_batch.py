"""What a decode step keeps of its mini-batch, in plain PyTorch: vectors, sums, and the fold into the state."""

import torch
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import matrix
from ttt_mlflow.kernels.inner_layers import MINI_BATCH


def write_slot(slots: Tensor, position: Tensor, row: Tensor) -> Tensor:
    """Write row [B, H, 1, X] at ``position`` of slots [B, H, M, X]; return the used slots, the rest zero.

    Unused slots may hold anything, NaN included, so they are replaced and not multiplied by zero.
    """
    slots.index_copy_(2, position.long(), row.to(slots.dtype))
    used = torch.arange(slots.shape[2], device=slots.device) <= position
    return torch.where(used[:, None], slots.double(), 0)


def combined(x: Tensor, keys: Tensor, gradients: Tensor) -> Tensor:
    """Σ_i (x · k_i + 1) g_i: what the slots add for x [B, H, 1, X], their biases' part included."""
    scores = (x * keys).sum(-1, keepdim=True) + 1  # [B, H, M, 1]
    return (scores * gradients).sum(2, keepdim=True)


def fold(state: Tensor, position: Tensor, update: Tensor) -> None:
    """state -= update after the last token of a mini-batch; at other positions the state stays, bit for bit."""
    folded = (matrix(state) - update).to(state.dtype)
    state.copy_(torch.where(position == MINI_BATCH - 1, folded, state))


def outer(left: Tensor, right: Tensor, like: Tensor) -> Tensor:
    """Σ_i left_iᵀ right_i for rows [B, H, i, ...], in the dtype of products with ``like``."""
    dtype = matrix(like).dtype
    return left.to(dtype).mT @ right.to(dtype)


def accumulate(total: Tensor, position: Tensor, gradient: Tensor) -> Tensor:
    """The running sum with this token's gradient, unrounded.

    At position 0 what ``total`` holds, NaN included, counts as zero. ``total`` is updated, except by the last token,
    after which the next mini-batch's sum begins.
    """
    summed = torch.where(position == 0, 0, matrix(total)) + gradient
    total.copy_(torch.where(position == MINI_BATCH - 1, total, summed.to(total.dtype)))
    return summed

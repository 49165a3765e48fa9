"""What a decode step keeps of its mini-batch, in plain PyTorch: vectors, sums, and the fold into the state.

The rank-1 form keeps vectors in slots, one per position (:func:`write_slot`, :func:`combined`). The accumulating form
keeps sums of the state's shape (:func:`accumulate`). In both forms, :func:`fold` changes the state after the last token
of a mini-batch. docs/rank-1-form.md derives the rank-1 form from Sun et al. 2024, arXiv 2407.04620, section 2.5.
A prompt is processed by mini-batches (:func:`parts`).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import matrix
from ttt_mlflow.kernels.inner_layers import MINI_BATCH


def write_slot(slots: Tensor, position: Tensor, row: Tensor) -> Tensor:
    """Write row [B, H, 1, X] at ``position`` [1] of slots [B, H, M, X]. Returns the slots in float64, unused ones zero.

    Unused slots may contain anything, including NaN. They are therefore replaced, not multiplied by zero.
    """
    slots.index_copy_(2, position.long(), row.to(slots.dtype))
    used = torch.arange(slots.shape[2], device=slots.device) <= position
    return torch.where(used[:, None], slots.double(), 0)


def combined(x: Tensor, keys: Tensor, gradients: Tensor) -> Tensor:
    """Σ_i (x · k_i + 1) g_i: the contribution of the slots to x, including that of their biases.

    x [B, H, 1, X]; keys [B, H, M, X] and gradients [B, H, M, Y] as :func:`write_slot` returns them. Returns
    [B, H, 1, Y].
    """
    scores = (x * keys).sum(-1, keepdim=True) + 1  # [B, H, M, 1]
    return (scores * gradients).sum(2, keepdim=True)


def fold(state: Tensor, position: Tensor, update: Tensor) -> None:
    """state -= update (same shape) in place after the last token of a mini-batch. Otherwise, state is unchanged."""
    folded = (matrix(state) - update).to(state.dtype)
    state.copy_(torch.where(position == MINI_BATCH - 1, folded, state))


def outer(left: Tensor, right: Tensor, like: Tensor) -> Tensor:
    """Σ_i left_iᵀ right_i for rows [B, H, i, X] and [B, H, i, Y]: [B, H, X, Y], in the dtype of ``like``'s products."""
    dtype = matrix(like).dtype
    return left.to(dtype).mT @ right.to(dtype)


def accumulate(total: Tensor, position: Tensor, gradient: Tensor) -> Tensor:
    """The running sum ``total`` plus this token's ``gradient``, both of the same shape; unrounded.

    At position 0, the content of ``total``, including NaN, counts as zero. ``total`` is updated, except by the last
    token, because the next mini-batch starts a new sum.
    """
    summed = torch.where(position == 0, 0, matrix(total)) + gradient
    total.copy_(torch.where(position == MINI_BATCH - 1, total, summed.to(total.dtype)))
    return summed


def parts(position: int, length: int) -> Iterator[tuple[slice, slice]]:
    """The mini-batches of a prompt of ``length`` tokens that begins at ``position`` of a mini-batch.

    Yields the tokens of each, and their positions in the mini-batch.
    """
    token = 0
    while token < length:
        count = min(MINI_BATCH - position, length - token)
        yield slice(token, token + count), slice(position, position + count)
        token, position = token + count, (position + count) % MINI_BATCH


def rows_by_head(x: Tensor, tokens: slice, heads: int) -> Tensor:
    """Some tokens of x [B, L, D] as [B, H, tokens, F], in the dtype of the arithmetic."""
    return matrix(x[:, tokens].unflatten(-1, (heads, -1)).transpose(1, 2))

"""A layer outside its inner net, for whole prompts, in plain PyTorch.

The functions are those of :mod:`ttt_mlflow.kernels.block.reference`, which has the source and the meaning of each, over
L tokens of each sequence at once. ``position`` [1] int32 is that of the first token in its mini-batch.
"""

import torch
from torch import Tensor

from ttt_mlflow.kernels import arithmetic
from ttt_mlflow.kernels.arithmetic import NORM_EPS, matrix
from ttt_mlflow.kernels.block import reference
from ttt_mlflow.kernels.block.reference import CONV_TAPS, rotate
from ttt_mlflow.kernels.inner_layers import MINI_BATCH

gated_layer_norm, swiglu = reference.gated_layer_norm, reference.swiglu  # of any number of rows


def rms_norm(x: Tensor, weight: Tensor, eps: float = NORM_EPS) -> Tensor:
    """The RMS norm of x [B, L, D] times ``weight`` [D], in x's dtype."""
    return arithmetic.rms_norm(x, weight, eps).to(x.dtype)


def _causal_conv(x: Tensor, ring: Tensor, position: Tensor, *filters: tuple[Tensor, Tensor]) -> list[Tensor]:
    """x [B, L, D] through each filter (taps [4, D] with the newest last, bias [D]), unrounded.

    ``ring`` [B, 4, D] has the inputs before x, each in the slot position mod 4, and afterwards the last inputs.
    """
    length = x.shape[1]
    slots = (position.long() + torch.arange(CONV_TAPS, device=x.device)) % CONV_TAPS  # the oldest first
    inputs = torch.cat((ring.index_select(1, slots), x), 1)
    ring.index_copy_(1, (slots + length) % CONV_TAPS, inputs[:, -CONV_TAPS:])
    shifted = [matrix(inputs[:, tap : tap + length]) for tap in range(1, CONV_TAPS + 1)]
    return [sum((one * matrix(taps[i]) for i, one in enumerate(shifted)), matrix(bias)) for taps, bias in filters]


def conv_rms_norm(
    hidden: Tensor,
    ring: Tensor,
    position: Tensor,
    conv_norm_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    norm_weight: Tensor,
    eps: float = NORM_EPS,
) -> tuple[Tensor, Tensor]:
    """The start of a layer: norm, causal convolution, residual, norm.

    hidden [B, L, D]; ring [B, 4, D] (updated); conv_weight [4, D], newest tap last; all others [D].
    Returns the new residual stream and its norm, both [B, L, D], in new memory.
    """
    normed = rms_norm(hidden, conv_norm_weight, eps)
    (filtered,) = _causal_conv(normed, ring, position, (conv_weight, conv_bias))
    hidden = (matrix(hidden) + filtered).to(hidden.dtype)
    return hidden, rms_norm(hidden, norm_weight, eps)


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
    """Q and K from their shared projection, and the tokens' learning rates.

    x [B, L, D], the shared projection, and lr_logits [B, L, H] (rows may be strided); ring [B, 4, D] (updated);
    q_weight, k_weight [4, D]; q_bias, k_bias [D]; lr_bias [H]; cos, sin [M, F / 2] float32.
    Returns q, k [B, L, D] in x's dtype and lr [B, H, L] float32: base_lr · sigmoid(logit + bias) / F.
    """
    length, heads = x.shape[1], lr_logits.shape[-1]
    positions = (position.long() + torch.arange(length, device=x.device)) % MINI_BATCH
    cos, sin = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)  # [L, 1, F / 2]
    q, k = (
        rotate(y.unflatten(-1, (heads, -1)), cos, sin).flatten(-2).to(x.dtype)
        for y in _causal_conv(x, ring, position, (q_weight, q_bias), (k_weight, k_bias))
    )
    lr = base_lr * torch.sigmoid(matrix(lr_logits) + matrix(lr_bias)) / (x.shape[-1] // heads)
    return q, k, lr.float().transpose(1, 2).contiguous()

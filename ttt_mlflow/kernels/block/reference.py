"""A layer outside its inner net, in plain PyTorch: norms, causal convolutions, rotary embedding, gates.

The functions process one token of each sequence, as in a decode step. Source: Sun et al. 2024, arXiv 2407.04620, and
the model published with it (test-time-training/ttt-lm-pytorch), whose weights these functions use. Letters of the
shapes: :mod:`ttt_mlflow.kernels`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import (
    NORM_EPS,
    gelu,
    layer_norm,
    rms_norm,
)

CONV_TAPS = 4  # width of the causal convolution; it divides the mini-batch, so `position` determines the ring slot


def add_rms_norm(hidden: Tensor, delta: Tensor, weight: Tensor, eps: float = NORM_EPS) -> tuple[Tensor, Tensor]:
    """hidden + delta, and its RMS norm times ``weight`` [D]. hidden, delta and both results: [B, D]."""
    hidden = (hidden.double() + delta.double()).to(hidden.dtype)
    return hidden, rms_norm(hidden, weight, eps).to(hidden.dtype)


def ring_conv(x: Tensor, ring: Tensor, position: Tensor) -> list[Tensor]:
    """Write x [B, D] to its slot of ``ring`` [B, 4, D]. Returns the last four inputs, the oldest first."""
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
    """The start of a layer: residual, norm, causal convolution, residual, norm.

    hidden, delta [B, D]; ring [B, 4, D], the last inputs of the convolution, each in the slot position mod 4 (updated);
    position [1] int32; conv_weight [4, D], newest tap last; all others [D].
    Returns the new residual stream and its norm, both [B, D].
    """
    dtype = hidden.dtype
    hidden, x = add_rms_norm(hidden, delta, conv_norm_weight, eps)
    taps = ring_conv(x, ring, position)
    conv = sum((tap * conv_weight[i].double() for i, tap in enumerate(taps)), conv_bias.double())
    hidden = (hidden.double() + conv).to(dtype)
    return hidden, rms_norm(hidden, norm_weight, eps).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., F]; cos, sin [..., F / 2]. Neighboring dimensions (2i, 2i + 1) form a pair."""
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
    taps = ring_conv(x, ring, position)
    cos, sin = cos.index_select(0, position.long()), sin.index_select(0, position.long())

    def filtered(weight: Tensor, bias: Tensor) -> Tensor:
        y = sum((tap * weight[i].double() for i, tap in enumerate(taps)), bias.double())
        return rotate(y.unflatten(-1, (heads, -1)), cos, sin).flatten(-2).to(x.dtype)

    lr = base_lr * torch.sigmoid(lr_logits.double() + lr_bias.double()) / (x.shape[1] // heads)
    return filtered(q_weight, q_bias), filtered(k_weight, k_bias), lr.float()


def gated_layer_norm(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    """gelu(gate) · LN(x), all [B, D] (gate's rows may be strided); weight, bias [D]."""
    return (gelu(gate.double()) * layer_norm(x.double(), weight.double(), bias.double(), eps)).to(x.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up for gate_up [B, 2 I]; returns [B, I]."""
    gate, up = gate_up.double().chunk(2, -1)
    return (F.silu(gate) * up).to(gate_up.dtype)

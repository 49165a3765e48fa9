"""One decode step of a gated delta network's layer, in plain PyTorch: convolutions, the gated delta rule, gated norm.

Source: Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464, and the layer ``GatedDeltaNet`` of flash-linear-attention
0.6.0, whose weights these functions use. Letters of the shapes: B sequences, H heads of the keys, G heads of the values
(a multiple of H), K key dimension, V value dimension of a head, C = 2 H K + G V channels of q, k and v together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import matrix, rms_norm, times
from ttt_mlflow.kernels.block.reference import ring_conv

L2_EPS = 1e-6  # added to the squared length of q and k


def short_conv(x: Tensor, ring: Tensor, position: Tensor, taps: Tensor) -> Tensor:
    """SiLU of a causal convolution of four taps, channel by channel.

    x [B, C], rows may be strided; ring [B, 4, C], the last inputs, each in the slot position mod 4 (updated); position
    [1] int32; taps [4, C], the newest last. Returns [B, C].
    """
    inputs = ring_conv(x, ring, position)
    return F.silu(sum(one * taps[i].double() for i, one in enumerate(inputs))).to(x.dtype)  # type: ignore[arg-type]


def l2_normalized(x: Tensor) -> Tensor:
    """x [..., K] divided by its length, unrounded."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + L2_EPS)


def gated_delta_step(qkv: Tensor, decay: Tensor, beta: Tensor, a_log: Tensor, dt_bias: Tensor, state: Tensor) -> Tensor:
    """One token through the gated delta rule, whose state is updated in place.

    qkv [B, C]: q and k of H heads, then v of G heads; decay and beta [B, G], logits, rows may be strided; a_log and
    dt_bias [G]; state S [B, G, V, K] float32. With q and k divided by their lengths, q also by the root of K:

        α = exp(−exp(a_log) · softplus(decay + dt_bias))        S ← α S
        S ← S + sigmoid(beta) (v − S k) kᵀ                      out = S q

    Returns out [B, G V] in qkv's dtype.
    """
    groups, values, keys = state.shape[1:]
    heads = (qkv.shape[1] - groups * values) // (2 * keys)
    q, k, v = qkv.double().split((heads * keys, heads * keys, groups * values), -1)
    q, k = (l2_normalized(x.unflatten(-1, (heads, keys))) for x in (q, k))
    q, k = (x.repeat_interleave(groups // heads, 1).unsqueeze(2) for x in (q * keys**-0.5, k))  # [B, G, 1, K]
    v = v.unflatten(-1, (groups, 1, values))
    rate = torch.exp(-torch.exp(a_log.double()) * F.softplus(decay.double() + dt_bias.double()))[..., None, None]
    decayed = matrix(state) * rate.to(matrix(state).dtype)
    change = torch.sigmoid(beta.double())[..., None, None] * (v - times(k, decayed.mT))  # [B, G, 1, V]
    updated = decayed + (change.mT * k).to(decayed.dtype)
    state.copy_(updated)
    return times(q, updated.mT).flatten(1).to(qkv.dtype)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm of each head, times silu(gate): x, gate [B, G V] (gate's rows may be strided); weight [V]."""
    normed = rms_norm(x.unflatten(-1, (-1, weight.shape[0])), weight, eps).flatten(-2)
    return (normed * F.silu(gate.double())).to(x.dtype)

"""One decode step of an RWKV-7 layer, in plain PyTorch: token shift, the generalized delta rule, its norm and gates.

Source: Peng et al. 2025, arXiv 2503.14456, and the layer ``RWKV7Attention`` of flash-linear-attention 0.6.0, whose
weights these functions use. Letters of the shapes: B sequences, D model width, H heads of F dimensions (D = H F).
"""

import torch
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import layer_norm, matrix, times

L2_EPS = 1e-6  # added to the squared length of a removal key
DECAY = -0.6065306597126334  # −exp(−1/2): the strongest decay in one token, as a logarithm
# the order of the low-rank projections
VALUE, WEIGHT_DECAY, RATE, GATE = range(4)


def shift_mix(
    hidden: Tensor, delta: Tensor, previous: Tensor, weight: Tensor, bias: Tensor, mix: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Residual, layer norm, and mixtures of the token with the one before it.

    hidden, delta [B, D]; previous [B, D], the norm of the token before (updated); weight, bias [D]; mix [N, D].
    With x the layer norm of hidden + delta, mixture i is x + (previous − x) · mix_i.
    Returns hidden + delta [B, D] and the mixtures [N, B, D].
    """
    hidden = (hidden.double() + delta.double()).to(hidden.dtype)
    normed = layer_norm(hidden.double(), weight.double(), bias.double(), eps).to(hidden.dtype)
    x = normed.double()
    mixed = x + (previous.double() - x) * mix.double().unsqueeze(1)
    previous.copy_(normed)
    return hidden, mixed.to(hidden.dtype)


def rank_activations(low: Tensor) -> None:
    """Between the two factors of the low-rank projections, low [4, B, R], in place: tanh for the decay, sigmoid for
    the gate, nothing for the others."""
    low[WEIGHT_DECAY].copy_(low[WEIGHT_DECAY].double().tanh())
    low[GATE].copy_(low[GATE].double().sigmoid())


def rwkv7_step(
    rkv: Tensor,
    low: Tensor,
    low_bias: Tensor,
    first: Tensor | None,
    k_k: Tensor,
    k_a: Tensor,
    r_k: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: Tensor,
    eps: float,
) -> Tensor:
    """One token through RWKV-7's time mixing, whose state is updated in place.

    rkv [3, B, D]: receptance r, key k and value v; low [4, B, D], the low-rank projections' outputs without their
    biases low_bias [4, D]: logits of the value's residual, of the decay and of the rate a, and the gate g, which has no
    bias (its row is not read); first [B, D], the value in the first layer, None in the first layer itself; k_k, k_a,
    norm_weight, norm_bias [D]; r_k [H, F]; state S [B, H, F, F] float32. Per head:

        v ← v + (first − v) sigmoid(value logits)    w = exp(DECAY · sigmoid(decay logits))     a = sigmoid(rate logits)
        κ = k k_k / ‖k k_k‖                          k ← k (1 + (a − 1) k_a)
        S ← diag(w) S − (κ a)ᵀ (κ S) + kᵀ v          out = (norm(r S) + (Σ r k r_k) v) g

    norm is a group norm with one group for each head. Returns out [B, D] in rkv's dtype.
    """
    heads, dim = state.shape[1], state.shape[2]
    r, k, v = (x.double().unflatten(-1, (heads, 1, dim)) for x in rkv)  # [B, H, 1, F]
    biased = low[:GATE].double() + low_bias[:GATE].double().unsqueeze(1)
    residual, decay, rate, gate = (x.unflatten(-1, (heads, 1, dim)) for x in (*biased, low[GATE].double()))
    rate = rate.sigmoid()
    if first is not None:
        v = v + (first.double().view_as(v) - v) * residual.sigmoid()

    def of_heads(x: Tensor) -> Tensor:
        return x.double().view(heads, 1, dim)

    removal = k * of_heads(k_k)
    removal = removal * torch.rsqrt(removal.square().sum(-1, keepdim=True) + L2_EPS)
    k = k * (1 + (rate - 1) * of_heads(k_a))
    old = matrix(state)
    scaled = torch.exp(DECAY * decay.sigmoid()).mT.to(old.dtype) * old
    updated = scaled + (k.mT * v - (removal * rate).mT * times(removal, old)).to(old.dtype)
    state.copy_(updated)
    out = times(r, updated)
    centered = out - out.mean(-1, keepdim=True)
    out = centered * torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps)
    out = out * of_heads(norm_weight) + of_heads(norm_bias)
    out = (out + (r * k * of_heads(r_k)).sum(-1, keepdim=True) * v) * gate
    return out.flatten(1).to(rkv.dtype)

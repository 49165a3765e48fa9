"""TTT models for tests, and the same model from the paper's equations in float64.

:func:`published_logits` shares no code with the package: it follows Sun et al. 2024, arXiv 2407.04620, and the
structure of the published PyTorch model, with the whole sequence at hand and no state that is carried along.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.kernels import oracle
from tests.kernels.decode_cases import relative_error
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import build
from ttt_mlflow.models.ttt.state import TTTState

EPS = 1e-6
THETA = 10000.0
MINI_BATCH = 16
INNER_NETS = ("mlp_1_dual", "mlp_2_dual")


def make_model(
    inner_net: str,
    name: str = "ttt-tiny",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    checkpoint: str | None = None,
) -> TTTModel:
    return build(ModelRequest(name, inner_net, dtype, torch.device(device), seed, checkpoint))


def leave_initial_values(model: TTTModel, scale: float = 4.0) -> TTTModel:
    """Move every kind of weight off its initial value, so that none is without effect and greedy tokens vary.

    Matrices grow by ``scale``; what begins at one or zero is spread around it.
    """
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("bias", "b1", "b2", "ttt_norm_bias", "learnable_ttt_lr_bias", "learnable_token_idx"):
            spread = 0.1
        elif "norm" in name:
            spread = 0.3
        else:
            if "conv" not in name and "embed" not in name:
                weight.mul_(scale)
            continue
        weight.add_((torch.randn(weight.shape, generator=generator) * spread).to(weight))
    model.weights_changed()
    return model


def make_tokens(batch: int, length: int, vocab_size: int = 512, seed: int = 1) -> Tensor:
    """Random tokens [B, L]."""
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def decode(model: TTTModel, tokens: Tensor, state: TTTState) -> Tensor:
    """Feed tokens [B, T] one by one: logits [B, T, V]."""
    return torch.stack([model.step(token, state) for token in tokens.unbind(1)], 1)


def assert_same_state(one: TTTState, other: TTTState, limit: float) -> None:
    """Position, convolutions, inner weights, and those vectors of the mini-batch that later tokens read."""
    assert torch.equal(one.position, other.position)
    kept = int(one.position)
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        pairs = [(mine.conv, theirs.conv), (mine.qk_conv, theirs.qk_conv)]
        pairs += zip(mine.inner, theirs.inner, strict=True)
        if kept:
            pairs += [(a[:, :, :kept], b[:, :, :kept]) for a, b in zip(mine.slots, theirs.slots, strict=True)]
        for a, b in pairs:
            assert relative_error(a, b) < limit


# The paper's equations


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [B, T, D] and everything before it, through a depthwise convolution with weight [D, 1, K]."""
    taps = weight.shape[-1]
    return F.conv1d(F.pad(x.mT, (taps - 1, 0)), weight, bias, groups=x.shape[-1]).mT


def rotary(x: Tensor) -> Tensor:
    """x [B, T, H, F]: neighbors (2i, 2i + 1) are one complex number, turned by t mod 16 times its frequency."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    frequencies = THETA ** -(torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    angles = torch.outer(torch.arange(x.shape[1], dtype=torch.float64) % MINI_BATCH, frequencies)[:, None]
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def ttt_block(x: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """x [B, T, D] to the TTT layer's output [B, T, D] and its inner weights after T tokens."""
    heads, dim = w["ttt_norm_weight"].shape
    names = ["W1", "b1", "W2", "b2"] if "W2" in w else ["W1", "b1"]
    base_lr = 0.1 if "W2" in w else 1.0

    def by_head(y: Tensor) -> Tensor:  # [B, T, D] -> [B, T, H, F]
        return y.unflatten(-1, (heads, dim))

    shared = x @ w["q_proj.weight"].T
    q = rotary(by_head(causal_conv(shared, w["conv_q.weight"], w["conv_q.bias"])))
    k = rotary(by_head(causal_conv(shared, w["conv_k.weight"], w["conv_k.bias"])))
    v = by_head(x @ w["v_proj.weight"].T)
    gate = torch.stack(  # [B, T, H]: each head has a linear layer of its own
        [F.linear(x, w["learnable_ttt_lr_weight"][h], w["learnable_ttt_lr_bias"][h]).squeeze(-1) for h in range(heads)],
        dim=-1,
    )
    rates = base_lr * torch.sigmoid(gate) / dim
    eta = (1 / torch.arange(1, MINI_BATCH + 1, dtype=torch.float64) + w["learnable_token_idx"]).clamp_min(0)
    begin = [w[name].squeeze(1) if name.startswith("b") else w[name] for name in names]
    out, states = oracle.decode(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), rates.transpose(0, 1), eta,
        w["ttt_norm_weight"], w["ttt_norm_bias"], [tensor.expand(len(x), *tensor.shape) for tensor in begin],
    )  # fmt: skip
    out = out.transpose(0, 1).flatten(-2)
    out = F.layer_norm(out, out.shape[-1:], w["post_norm.weight"], w["post_norm.bias"], EPS)
    return (F.gelu(x @ w["g_proj.weight"].T, approximate="tanh") * out) @ w["o_proj.weight"].T, states[-1]


def published_logits(model: TTTModel, tokens: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """Logits [B, T, V] after each of tokens [B, T], and each layer's inner weights after all of them.

    In float64 and on the CPU, wherever the model is.
    """
    weights = {name: weight.double().cpu() for name, weight in model.named_parameters()}
    hidden, states = weights["model.embed_tokens.weight"][tokens], []
    for layer in range(model.config.num_layers):
        prefix = f"model.layers.{layer}."
        w = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        normed = rms_norm(hidden, w["conv.norm.weight"])
        hidden = hidden + causal_conv(normed, w["conv.conv.weight"], w["conv.conv.bias"])
        block = "seq_modeling_block."
        inner = {name.removeprefix(block): weight for name, weight in w.items() if name.startswith(block)}
        out, state = ttt_block(rms_norm(hidden, w["seq_norm.weight"]), inner)
        states.append(state)
        hidden = hidden + out
        normed = rms_norm(hidden, w["ffn_norm.weight"])
        gated = F.silu(normed @ w["mlp.gate_proj.weight"].T) * (normed @ w["mlp.up_proj.weight"].T)
        hidden = hidden + gated @ w["mlp.down_proj.weight"].T
    hidden = rms_norm(hidden, weights["model.norm.weight"])
    return hidden @ weights["model.embed_tokens.weight"].T, states

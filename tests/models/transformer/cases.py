"""Transformers for tests, and the same model in float64 from the papers' equations.

:func:`plain_logits` shares no code with the package: it has the whole sequence at hand and no cache.
"""

import torch
from torch import Tensor

from ttt_mlflow.models.transformer.config import TransformerConfig
from ttt_mlflow.models.transformer.model import TransformerModel, initialize
from ttt_mlflow.workload import Workload

MHA = TransformerConfig(64, 96, 3, 4, 4, vocab_size=509)
GQA = TransformerConfig(128, 96, 3, 8, 2, vocab_size=509)
CONFIGS = {"own KV heads": MHA, "shared KV heads": GQA}


def make_model(
    config: TransformerConfig,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    scale: float = 12.0,
    attn_impl: str | None = None,
    workload: Workload | None = None,
) -> TransformerModel:
    """Random weights. Matrices grow by ``scale``, so that greedy tokens vary, and norms are off their initial value."""
    model = TransformerModel(config, dtype, torch.device(device), attn_impl, workload)
    initialize(model, 0)
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        if name.endswith("norm"):
            weight.add_((0.3 * torch.randn(weight.shape, generator=generator)).to(weight))
        elif name != "embeddings":
            weight.mul_(scale)
    return model


def make_tokens(batch: int, length: int, vocab_size: int = 509, seed: int = 1) -> Tensor:
    """Random tokens [B, L]."""
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def step_logits(model: TransformerModel, tokens: Tensor, length: int) -> Tensor:
    """Feed tokens [B, T] one by one: logits [B, T, V]."""
    state = model.new_cache(tokens.shape[0], length)
    return torch.stack([model.step(token, state) for token in tokens.unbind(1)], 1)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def _rotary(x: Tensor, theta: float) -> Tensor:
    """x [B, T, H, F]: neighbors (2i, 2i + 1) are one complex number, turned by t times its frequency."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    frequencies = theta ** -(torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    angles = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), frequencies)[:, None]
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def plain_logits(model: TransformerModel, tokens: Tensor) -> Tensor:
    """Logits [B, T, V] after each of tokens [B, T], in float64 and on the CPU, wherever the model is."""
    config, w = model.config, {name: weight.double().cpu() for name, weight in model.named_parameters()}
    heads, dim, length = config.num_heads, config.hidden_size // config.num_heads, tokens.shape[1]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    hidden = w["embeddings"][tokens]
    for layer in range(config.num_layers):
        own = {name.removeprefix(f"blocks.{layer}."): weight for name, weight in w.items()}
        projected = (_rms_norm(hidden, own["attention_norm"]) @ own["qkv"].T).unflatten(-1, (-1, dim))
        q, k, v = projected.split((heads, config.num_kv_heads, config.num_kv_heads), 2)
        q, k = _rotary(q, config.rope_theta), _rotary(k, config.rope_theta)
        of_head = torch.arange(heads) * config.num_kv_heads // heads
        scores = torch.einsum("bthf,bshf->bhts", q, k[:, :, of_head]) / dim**0.5
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        attended = torch.einsum("bhts,bshf->bthf", weights, v[:, :, of_head]).flatten(2)
        hidden = hidden + attended @ own["o"].T
        gate, up = (_rms_norm(hidden, own["ffn_norm"]) @ own["gate_up"].T).chunk(2, -1)
        hidden = hidden + (gate * torch.sigmoid(gate) * up) @ own["down"].T
    return _rms_norm(hidden, w["norm"]) @ w["embeddings"].T

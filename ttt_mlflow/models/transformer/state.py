"""The KV cache of a batch of sequences. It is allocated once and filled in place."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ttt_mlflow.models.transformer.config import TransformerConfig
from ttt_mlflow.models.ttt.whole_step import WholeStep


@dataclass(frozen=True)
class LayerCache:
    """Keys, after the rotary embedding, and values [B, G, N, F] of G KV heads and N positions."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class TransformerState:
    """``position`` [1] int32, updated on the device: how many tokens of each sequence are in the cache.

    ``cos`` and ``sin`` [N, F / 2]: the rotary embedding of each position, in float32, or in float64 for a model in it.
    ``whole_step``: the decode step of this cache, unless it is decoded by the layers' functions.
    """

    position: Tensor
    cos: Tensor
    sin: Tensor
    layers: tuple[LayerCache, ...]
    whole_step: WholeStep | None = None

    @property
    def length(self) -> int:
        """Positions of the cache."""
        return self.cos.shape[0]


def allocate(
    config: TransformerConfig, batch: int, length: int, dtype: torch.dtype, device: torch.device
) -> TransformerState:
    """An empty cache for ``batch`` sequences of up to ``length`` tokens.

    It has zeros, not what was in the memory: attention with a mask multiplies values beyond the position by zero, and
    what was there may be no number.
    """
    shape = (batch, config.num_kv_heads, length, config.head_dim)
    layers = tuple(
        LayerCache(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))
        for _ in range(config.num_layers)
    )
    table = torch.float64 if dtype == torch.float64 else torch.float32
    cos, sin = (torch.empty(length, config.head_dim // 2, dtype=table, device=device) for _ in range(2))
    if device.type != "meta":
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        angles = torch.outer(torch.arange(length, dtype=torch.float64), config.rope_theta**-half)
        cos.copy_(angles.cos())
        sin.copy_(angles.sin())
    return TransformerState(torch.zeros(1, dtype=torch.int32, device=device), cos, sin, layers)

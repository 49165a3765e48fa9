"""The state that a batch of sequences carries from token to token. It is allocated once and updated in place."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.models.ttt.config import TTTConfig
from ttt_mlflow.models.ttt.inner_nets import InnerNet
from ttt_mlflow.models.ttt.whole_step import WholeStep


@dataclass(frozen=True)
class LayerState:
    """One layer: convolution inputs [B, 4, D], each in the slot position mod 4; inner weights; mini-batch vectors."""

    conv: Tensor
    qk_conv: Tensor
    inner: tuple[Tensor, ...]
    slots: tuple[Tensor, ...]


@dataclass(frozen=True)
class TTTState:
    """``position`` [1] int32 is the next token's index in its mini-batch. It is updated on the device.

    ``whole_step``: the decode step of this state, unless it is decoded by the layers' functions.
    """

    position: Tensor
    layers: tuple[LayerState, ...]
    whole_step: WholeStep | None = None


def allocate(config: TTTConfig, net: InnerNet, batch: int, dtype: torch.dtype, device: torch.device) -> TTTState:
    """The state for ``batch`` sequences. The model's reset_state fills the inner weights."""
    heads, dim = config.num_heads, config.head_dim

    def empty(*shape: int) -> Tensor:
        return torch.empty(batch, *shape, dtype=dtype, device=device)

    layers = tuple(
        LayerState(
            conv=empty(CONV_TAPS, config.hidden_size),
            qk_conv=empty(CONV_TAPS, config.hidden_size),
            inner=tuple(empty(heads, *shape) for shape in net.layer.state_shapes(dim)),
            slots=tuple(empty(heads, MINI_BATCH, width) for width in net.layer.slot_widths(dim)),
        )
        for _ in range(config.num_layers)
    )
    return TTTState(torch.zeros(1, dtype=torch.int32, device=device), layers)

"""What a whole step reads and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ttt_mlflow.kernels.inner_layers import InnerLayer


class LayerTensors(NamedTuple):
    """One layer's weights and state. Shapes and meaning: :mod:`ttt_mlflow.kernels.block.reference`.

    projection [P, D]: rows for Q/K, V, the gate, the learning rate's logits, and padding; gate_up [2 I, D], the gate's
    rows first. eta [M] float32. state and slots: as the decode functions take them
    (:mod:`ttt_mlflow.kernels.ttt_linear.reference`). The rings, the state and the slots are updated in place.
    """

    conv_norm: Tensor
    conv_taps: Tensor
    conv_bias: Tensor
    seq_norm: Tensor
    projection: Tensor
    q_taps: Tensor
    q_bias: Tensor
    k_taps: Tensor
    k_bias: Tensor
    lr_bias: Tensor
    eta: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    post_norm_weight: Tensor
    post_norm_bias: Tensor
    o_proj: Tensor
    ffn_norm: Tensor
    gate_up: Tensor
    down_proj: Tensor
    conv_ring: Tensor
    qk_ring: Tensor
    state: tuple[Tensor, ...]
    slots: tuple[Tensor, ...]

    def changed(self) -> list[Tensor]:
        """What a step updates: the rings, the state and the slots."""
        return [self.conv_ring, self.qk_ring, *self.state, *self.slots]

    def flat(self) -> list[Tensor]:
        """All tensors, in the order of the fields."""
        return [*self[:-2], *self.state, *self.slots]


@dataclass(frozen=True)
class StepTensors:
    """A model's layers, and what they share.

    embedding [rows, D], of which the first ``vocab`` are words; the head has the same weights. cos, sin [M, F / 2]
    float32. position [1] int32, advanced by a step.
    """

    layers: Sequence[LayerTensors]
    embedding: Tensor
    last_norm: Tensor
    cos: Tensor
    sin: Tensor
    position: Tensor
    inner_layer: InnerLayer
    vocab: int


class TransformerLayerTensors(NamedTuple):
    """A transformer layer's weights, and its cache k, v (:mod:`ttt_mlflow.kernels.attention.reference`).

    qkv [P, D], o_proj [D, D]; gate_up [2 I, D], the gate's rows first. The cache is updated in place.
    """

    attention_norm: Tensor
    qkv: Tensor
    o_proj: Tensor
    ffn_norm: Tensor
    gate_up: Tensor
    down_proj: Tensor
    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class TransformerTensors:
    """A transformer's layers, and what they share. cos, sin [N, F / 2] float32; the others as :class:`StepTensors`."""

    layers: Sequence[TransformerLayerTensors]
    embedding: Tensor
    last_norm: Tensor
    cos: Tensor
    sin: Tensor
    position: Tensor
    vocab: int

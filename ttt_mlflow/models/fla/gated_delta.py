"""Gated delta networks: flash-linear-attention's layer ``GatedDeltaNet``, with a decode step that runs as one graph.

Source: Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464. Weights are random, of fla's initial distributions.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttt_mlflow.kernels.block import reference
from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.gated_delta import reference as delta_reference
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.fla.model import (
    SIXTEEN_BITS,
    FlaModel,
    Function,
    allocate_rest,
    take_rows,
)
from ttt_mlflow.models.fla.package import block_classes, empty_layers
from ttt_mlflow.models.fla.sizes import EXPAND_VALUES, GATED_DELTA, VOCABULARY_MULTIPLE, GatedDeltaSize, padded
from ttt_mlflow.workload import CONVOLUTION, FEED_FORWARD, HEAD, INNER, PROJECTIONS, in_layer, in_part

NORM_EPS = 1e-6


@dataclass(frozen=True)
class LayerState:
    """conv [B, 4, C]: inputs of the convolutions, each in the slot position mod 4; recurrent [B, H, V, K] float32."""

    conv: Tensor
    recurrent: Tensor


@dataclass(frozen=True)
class GatedDeltaState:
    """``position`` [1] int32 is the next token's slot in the convolutions. It is updated on the device."""

    position: Tensor
    layers: tuple[LayerState, ...]


class Cache:
    """The state as fla's layers take it and return it, for some tokens of a prompt: see fla's ``Cache``.

    fla keeps the inputs of a convolution with the oldest first. So they are written, and the position starts again.
    """

    def __init__(self, size: GatedDeltaSize, state: GatedDeltaState) -> None:
        self.state, self.widths = state, (size.keys, size.keys, size.values)
        self.oldest_first = (state.position + torch.arange(CONV_TAPS, device=state.position.device)) % CONV_TAPS

    def __len__(self) -> int:
        return len(self.state.layers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        layer = self.state.layers[index]
        inputs = layer.conv.index_select(1, self.oldest_first).split(self.widths, 2)
        return {
            "recurrent_state": layer.recurrent,
            "conv_state": tuple(one.transpose(1, 2).contiguous() for one in inputs),
        }

    def update(self, layer_idx: int, recurrent_state: Tensor, conv_state: tuple[Tensor, ...], offset: int) -> None:
        layer = self.state.layers[layer_idx]
        layer.recurrent.copy_(recurrent_state)
        for own, new in zip(layer.conv.split(self.widths, 2), conv_state, strict=True):
            own.copy_(new.transpose(1, 2))


class GatedDeltaLayer(nn.Module):
    """One of fla's layers, and its decode step. projection: rows for q, k, v, gate, decay and beta (padded)."""

    projection: Tensor
    gate_up: Tensor
    taps: Tensor

    def __init__(
        self, block: Any, size: GatedDeltaSize, functions: tuple[ModuleType, ModuleType], where: dict[str, Any]
    ):
        super().__init__()
        self.size, self.block = size, block
        self.functions, self.delta_functions = functions
        attn, mlp = block.attn, block.mlp
        fused = torch.zeros(padded(size.projected), size.width, **where)
        self.register_buffer("projection", fused, persistent=False)
        take_rows(fused, [attn.q_proj, attn.k_proj, attn.v_proj, attn.g_proj, attn.a_proj, attn.b_proj])
        self.register_buffer("gate_up", torch.empty(2 * size.intermediate, size.width, **where), persistent=False)
        take_rows(self.gate_up, [mlp.gate_proj, mlp.up_proj])
        allocate_rest(block, where["dtype"], where["device"], single=("A_log", "dt_bias"))
        # the filters of q, k and v with the taps first, made by `weights_changed`
        self.register_buffer("taps", torch.empty(CONV_TAPS, size.channels, **where), persistent=False)

    def weights_changed(self) -> None:
        """Compute what is derived from the weights. Call it after loading or initializing them."""
        attn = self.block.attn
        filters = [conv.weight.squeeze(1).t() for conv in (attn.q_conv1d, attn.k_conv1d, attn.v_conv1d)]
        torch.cat(filters, 1, out=self.taps)

    def step(
        self, hidden: Tensor, delta: Tensor, position: Tensor, conv: Tensor, recurrent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One token: hidden [B, D], and the previous layer's output ``delta`` [B, D], which is not yet added to it.

        Returns the same pair for the next layer.
        """
        block, size, functions = self.block, self.size, self.functions
        with in_part(PROJECTIONS):
            hidden, x = functions.add_rms_norm(hidden, delta, block.attn_norm.weight, NORM_EPS)
            projected = F.linear(x, self.projection)
            qkv, gate, decay, beta, _ = projected.split(
                (size.channels, size.values, size.heads, size.heads, projected.shape[1] - size.projected), -1
            )
        with in_part(CONVOLUTION):
            qkv = self.delta_functions.short_conv(qkv, conv, position, self.taps)
        with in_part(INNER):
            x = self.delta_functions.gated_delta_step(qkv, decay, beta, block.attn.A_log, block.attn.dt_bias, recurrent)
        with in_part(PROJECTIONS):
            x = self.delta_functions.gated_rms_norm(x, gate, block.attn.o_norm.weight, NORM_EPS)
            x = F.linear(x, block.attn.o_proj.weight)
        with in_part(FEED_FORWARD):
            hidden, x = functions.add_rms_norm(hidden, x, block.mlp_norm.weight, NORM_EPS)
            return hidden, F.linear(functions.swiglu(F.linear(x, self.gate_up)), block.mlp.down_proj.weight)


class GatedDeltaModel(FlaModel):
    """A gated delta network whose prompts go token by token through the step."""

    def __init__(
        self, size: GatedDeltaSize, dtype: torch.dtype, device: torch.device, *, is_plain: bool = False
    ) -> None:
        """is_plain: from plain PyTorch operations on a GPU too."""
        where: dict[str, Any] = {"dtype": dtype, "device": device}
        functions = reference, delta_reference
        if device.type == "cuda" and not is_plain:
            from ttt_mlflow.kernels.block import fused
            from ttt_mlflow.kernels.gated_delta import decode

            functions = fused, decode
        config, layer_class = block_classes("gated_deltanet")
        settings = package_settings(size)
        with empty_layers():
            blocks = [layer_class(config(**settings), index) for index in range(size.layers)]
            norm = type(blocks[0].attn_norm)(size.width, eps=NORM_EPS)
        allocate_rest(norm, dtype, device)
        layers = [GatedDeltaLayer(block, size, functions, where) for block in blocks]
        super().__init__(layers, norm, size.width, size.vocab, where)
        self.size, self.functions = size, functions[0]

    def memory_parts(self, state: GatedDeltaState) -> dict[str, list[Tensor]]:
        held = [tensor for layer in state.layers for tensor in (layer.conv, layer.recurrent)]
        return {"weights": [*self.parameters(), *self.buffers()], "state": [state.position, *held]}

    def weights_changed(self) -> None:
        for layer in self.layers:
            layer.weights_changed()  # type: ignore[operator]

    def new_state(self, batch: int) -> GatedDeltaState:
        self._new_batch()
        state = allocate(self.size, batch, self.dtype, self.device)
        self.reset_state(state)
        return state

    def reset_state(self, state: GatedDeltaState) -> None:
        state.position.zero_()
        for layer in state.layers:
            layer.conv.zero_()
            layer.recurrent.zero_()

    def step(self, tokens: Tensor, state: GatedDeltaState) -> Tensor:
        """Feed one token per sequence: tokens [B] to logits [B, V]."""
        with in_part(HEAD):
            hidden = F.embedding(tokens, self.embeddings)
            delta = torch.zeros_like(hidden)
        for index, (layer_step, kept) in enumerate(zip(self._layer_steps, state.layers, strict=True)):
            with in_layer(index):
                hidden, delta = layer_step(hidden, delta, state.position, kept.conv, kept.recurrent)
        with in_part(CONVOLUTION):
            state.position.add_(1).remainder_(CONV_TAPS)
        with in_part(HEAD):
            _, x = self.functions.add_rms_norm(hidden, delta, self.norm.weight, NORM_EPS)
            return self.logits(x)


class GatedDeltaModelWithPrefill(GatedDeltaModel):
    """A gated delta network whose prompts go through fla's layers."""

    def prefill(self, tokens: Tensor, state: GatedDeltaState) -> Tensor:
        """Feed a prompt with fla's kernels, from any position: tokens [B, P] to the last token's logits [B, V]."""
        for some in self._parts_of(tokens):
            last = self._through_layers(some, Cache(self.size, state), profiled_functions())
            state.position.zero_()
        with in_part(HEAD):
            return self.logits(self.norm(last))


def profiled_functions() -> list[Function]:
    from fla.layers import gated_deltanet
    from fla.modules.causal_conv1d import ops

    convolution = (ops, "causal_conv1d", CONVOLUTION)
    rules = ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule")
    return [convolution, *((gated_deltanet, name, INNER) for name in rules)]


def package_settings(size: GatedDeltaSize) -> dict[str, Any]:
    """Of fla's ``GatedDeltaNetConfig``. All that is not here is its default."""
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_heads": size.heads,
        "head_dim": size.key_dim,
        "expand_v": EXPAND_VALUES,
        "intermediate_size": size.intermediate,
        "norm_eps": NORM_EPS,
        "vocab_size": padded(size.vocab, VOCABULARY_MULTIPLE),
        "tie_word_embeddings": True,
    }


def allocate(size: GatedDeltaSize, batch: int, dtype: torch.dtype, device: torch.device) -> GatedDeltaState:
    """The state of ``batch`` sequences, uninitialized but for the position."""
    layers = tuple(
        LayerState(
            torch.empty(batch, CONV_TAPS, size.channels, dtype=dtype, device=device),
            torch.empty(batch, size.heads, size.value_dim, size.key_dim, dtype=torch.float32, device=device),
        )
        for _ in range(size.layers)
    )
    return GatedDeltaState(torch.zeros(1, dtype=torch.int32, device=device), layers)


def initialize(model: GatedDeltaModel, seed: int) -> None:
    """Random weights of fla's initial distributions. A seed gives the same weights on one kind of device."""
    generator = torch.Generator(model.device).manual_seed(seed)
    for name, weight in model.named_parameters():
        leaf, parent = name.rsplit(".", 1)[-1], name.rsplit(".", 2)[-2] if "." in name else ""
        if leaf == "A_log":
            weight.uniform_(0, 16, generator=generator).log_()
        elif leaf == "dt_bias":
            span = math.log(0.1) - math.log(0.001)
            step = torch.exp(weight.uniform_(generator=generator) * span + math.log(0.001)).clamp_min(1e-4)
            weight.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        elif parent.endswith("norm"):
            weight.fill_(1)
        elif parent.endswith("conv1d"):
            bound = 1 / math.sqrt(CONV_TAPS)  # the default of torch.nn.Conv1d with one input channel per group
            weight.uniform_(-bound, bound, generator=generator)
        else:
            weight.normal_(0, 0.02, generator=generator)
    model.weights_changed()


def build(request: ModelRequest) -> GatedDeltaModel:
    """Build ``request.name`` with random weights from the seed."""
    prefills = request.device.type == "cuda" and request.dtype in SIXTEEN_BITS
    kind = GatedDeltaModelWithPrefill if prefills else GatedDeltaModel
    model = kind(GATED_DELTA[request.name], request.dtype, request.device)
    initialize(model, request.seed)
    return model.eval()


def build_plain(request: ModelRequest) -> GatedDeltaModel:
    """The same model from plain PyTorch operations. Its weights are not initialized."""
    return GatedDeltaModel(GATED_DELTA[request.name], request.dtype, request.device, is_plain=True).eval()

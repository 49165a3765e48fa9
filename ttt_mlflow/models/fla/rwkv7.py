"""RWKV-7: flash-linear-attention's layers of it, with a decode step that runs as one graph.

Source: Peng et al. 2025, arXiv 2503.14456. Weights are random: vectors as fla initializes them, matrices of a normal
distribution (fla begins with zeros in the output projections, with which every token would be the same), and a first
norm that leaves embeddings as small as they are: see :func:`initialize`.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttt_mlflow.kernels.rwkv7 import reference
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.fla.model import SIXTEEN_BITS, FlaModel, Function, allocate_rest, parameter
from ttt_mlflow.models.fla.package import block_classes, empty_layers
from ttt_mlflow.models.fla.sizes import RWKV7, VOCABULARY_MULTIPLE, Rwkv7Size, padded
from ttt_mlflow.workload import CONVOLUTION, FEED_FORWARD, HEAD, INNER, PROJECTIONS, in_layer, in_part

NORM_EPS = 1e-5
SCALE = 0.02  # the standard deviation of random matrices
MIXTURES = ("x_r", "x_k", "x_v", "x_w", "x_a", "x_g")  # r, k and v first; from v on, those of the low-rank projections


@dataclass(frozen=True)
class LayerState:
    """The token before, as the time mixing and the feed-forward see it [B, D]; recurrent [B, H, F, F] float32."""

    attention_shift: Tensor
    ffn_shift: Tensor
    recurrent: Tensor


@dataclass(frozen=True)
class Rwkv7State:
    layers: tuple[LayerState, ...]


class Cache:
    """The state as fla's layers take it and return it: see fla's ``Cache``."""

    def __init__(self, state: Rwkv7State) -> None:
        self.state = state

    def __len__(self) -> int:
        return len(self.state.layers)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        layer = self.state.layers[index]
        return {
            "conv_state": layer.attention_shift,
            "ffn_state": layer.ffn_shift,
            "recurrent_state": layer.recurrent,
        }

    def update(
        self,
        layer_idx: int,
        recurrent_state: Tensor | None = None,
        conv_state: Tensor | None = None,
        ffn_state: Tensor | None = None,
        offset: int = 1,
    ) -> None:
        layer = self.state.layers[layer_idx]
        given = (conv_state, ffn_state, recurrent_state)
        for own, new in zip((layer.attention_shift, layer.ffn_shift, layer.recurrent), given, strict=True):
            if new is not None:
                own.copy_(new.reshape(own.shape))


class Rwkv7Layer(nn.Module):
    """One of fla's layers, and its decode step.

    rkv [3, D, D]; down [4, R, D] and up [4, D, R], the factors of the low-rank projections in the order value, decay,
    rate, gate, each padded with zeros to the rank R; low_bias [4, D]; mix [6, D].
    """

    rkv: Tensor
    down: Tensor
    up: Tensor
    low_bias: Tensor
    mix: Tensor

    def __init__(self, block: Any, size: Rwkv7Size, functions: ModuleType, where: dict[str, Any]) -> None:
        super().__init__()
        self.size, self.block, self.functions = size, block, functions
        attn, width = block.attn, size.width

        def buffer(name: str, *shape: int) -> Tensor:
            made = torch.zeros(shape, **where)
            self.register_buffer(name, made, persistent=False)
            return made

        rkv, mix = buffer("rkv", 3, width, width), buffer("mix", len(MIXTURES), width)
        down, up = buffer("down", 4, size.rank, width), buffer("up", 4, width, size.rank)
        low_bias = buffer("low_bias", 4, width)
        for weight, linear in zip(rkv, (attn.r_proj, attn.k_proj, attn.v_proj), strict=True):
            linear.weight = parameter(weight)
        for share, name in zip(mix, MIXTURES, strict=True):
            setattr(attn, name, parameter(share.view(1, 1, width)))
        for index, name in enumerate(("v_lora", "w_lora", "a_lora", "g_lora")):
            if hasattr(attn, name):  # the first layer has no residual of the value
                first, _, second = getattr(attn, name).lora
                rank = first.weight.shape[0]
                first.weight, second.weight = parameter(down[index, :rank]), parameter(up[index, :, :rank])
                if second.bias is not None:
                    second.bias = parameter(low_bias[index])
        allocate_rest(block, **where)

    def step(
        self,
        hidden: Tensor,
        delta: Tensor,
        first: Tensor | None,
        attention_shift: Tensor,
        ffn_shift: Tensor,
        recurrent: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token: hidden [B, D], the previous layer's output ``delta`` [B, D], which is not yet added to it, and the
        first layer's value [B, D], or None in the first layer.

        Returns the three for the next layer.
        """
        block, attn, functions = self.block, self.block.attn, self.functions
        with in_part(CONVOLUTION):
            norm = block.attn_norm
            hidden, mixed = functions.shift_mix(
                hidden, delta, attention_shift, norm.weight, norm.bias, self.mix, NORM_EPS
            )
        with in_part(PROJECTIONS):
            rkv = torch.bmm(mixed[:3], self.rkv.mT)
            low = torch.bmm(mixed[2:], self.down.mT)
            functions.rank_activations(low)
            low = torch.bmm(low, self.up.mT)
        with in_part(INNER):
            x = functions.rwkv7_step(
                rkv, low, self.low_bias, first, attn.k_k, attn.k_a, attn.r_k,
                attn.g_norm.weight, attn.g_norm.bias, recurrent, self.size.head_dim * NORM_EPS,
            )  # fmt: skip
        with in_part(PROJECTIONS):
            x = F.linear(x, attn.o_proj.weight)
        with in_part(FEED_FORWARD):
            norm, ffn = block.ffn_norm, block.ffn
            hidden, mixed = functions.shift_mix(
                hidden, x, ffn_shift, norm.weight, norm.bias, ffn.x_k.unsqueeze(0), NORM_EPS
            )
            x = F.linear(mixed[0], ffn.key.weight).relu().square()
            return hidden, F.linear(x, ffn.value.weight), rkv[2] if first is None else first


class Rwkv7Model(FlaModel):
    """RWKV-7 whose prompts go token by token through the step."""

    def __init__(self, size: Rwkv7Size, dtype: torch.dtype, device: torch.device, *, is_plain: bool = False) -> None:
        """is_plain: from plain PyTorch operations on a GPU too."""
        where: dict[str, Any] = {"dtype": dtype, "device": device}
        functions: ModuleType = reference
        if device.type == "cuda" and not is_plain:
            from ttt_mlflow.kernels.rwkv7 import decode

            functions = decode
        config, layer_class = block_classes("rwkv7")
        settings = package_settings(size)
        with empty_layers():
            blocks = [layer_class(config(**settings), index) for index in range(size.layers)]
            norm = type(blocks[0].attn_norm)(size.width, bias=True, eps=NORM_EPS)
        allocate_rest(norm, dtype, device)
        super().__init__(
            [Rwkv7Layer(block, size, functions, where) for block in blocks], norm, size.width, size.vocab, where
        )
        self.size = size

    def memory_parts(self, state: Rwkv7State) -> dict[str, list[Tensor]]:
        held = [one for layer in state.layers for one in (layer.attention_shift, layer.ffn_shift, layer.recurrent)]
        return {"weights": [*self.parameters(), *self.buffers()], "state": held}

    def new_state(self, batch: int) -> Rwkv7State:
        self._new_batch()
        state = allocate(self.size, batch, self.dtype, self.device)
        self.reset_state(state)
        return state

    def reset_state(self, state: Rwkv7State) -> None:
        for layer in state.layers:
            for tensor in (layer.attention_shift, layer.ffn_shift, layer.recurrent):
                tensor.zero_()

    def step(self, tokens: Tensor, state: Rwkv7State) -> Tensor:
        """Feed one token per sequence: tokens [B] to logits [B, V]."""
        with in_part(HEAD):
            before: Any = self.layers[0].block.pre_norm  # type: ignore[union-attr]
            hidden = F.embedding(tokens, self.embeddings)
            hidden = F.layer_norm(hidden, (self.width,), before.weight, before.bias, NORM_EPS)
            delta, first = torch.zeros_like(hidden), None
        for index, (layer_step, kept) in enumerate(zip(self._layer_steps, state.layers, strict=True)):
            with in_layer(index):
                hidden, delta, first = layer_step(
                    hidden, delta, first, kept.attention_shift, kept.ffn_shift, kept.recurrent
                )
        with in_part(HEAD):
            last = F.layer_norm(hidden + delta, (self.width,), self.norm.weight, self.norm.bias, NORM_EPS)
            return self.logits(last)


class Rwkv7ModelWithPrefill(Rwkv7Model):
    """RWKV-7 whose prompts go through fla's layers."""

    def prefill(self, tokens: Tensor, state: Rwkv7State) -> Tensor:
        """Feed a prompt with fla's kernels, from any position: tokens [B, P] to the last token's logits [B, V]."""
        for some in self._parts_of(tokens):
            last = self._through_layers(some, Cache(state), profiled_functions(), v_first=None)
        with in_part(HEAD):
            return self.logits(self.norm(last))


def profiled_functions() -> list[Function]:
    from fla.layers import rwkv7
    from fla.models.rwkv7 import modeling_rwkv7

    shifts = [(module, "token_shift", CONVOLUTION) for module in (rwkv7, modeling_rwkv7)]
    return [*shifts, *((rwkv7, name, INNER) for name in ("chunk_rwkv7", "fused_mul_recurrent_rwkv7"))]


def package_settings(size: Rwkv7Size) -> dict[str, Any]:
    """Of fla's ``RWKV7Config``. All that is not here is its default."""
    value, decay, rate, gate = size.ranks
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "head_dim": size.head_dim,
        "intermediate_size": size.intermediate,
        "v_low_rank_dim": value,
        "decay_low_rank_dim": decay,
        "a_low_rank_dim": rate,
        "gate_low_rank_dim": gate,
        "norm_eps": NORM_EPS,
        "vocab_size": padded(size.vocab, VOCABULARY_MULTIPLE),
        "tie_word_embeddings": True,
    }


def allocate(size: Rwkv7Size, batch: int, dtype: torch.dtype, device: torch.device) -> Rwkv7State:
    """The state of ``batch`` sequences, uninitialized."""
    layers = tuple(
        LayerState(
            torch.empty(batch, size.width, dtype=dtype, device=device),
            torch.empty(batch, size.width, dtype=dtype, device=device),
            torch.empty(batch, size.heads, size.head_dim, size.head_dim, dtype=torch.float32, device=device),
        )
        for _ in range(size.layers)
    )
    return Rwkv7State(layers)


def initialize(model: Rwkv7Model, seed: int) -> None:
    """Random weights. A seed gives the same weights on one kind of device.

    RWKV-7 norms its embeddings. With weights of 1 in that norm, a token's own embedding would be much of the last
    hidden state, and the head has the same embeddings: the most likely token would always be the one that was given.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    for name, weight in model.named_parameters():
        leaf, parent = name.rsplit(".", 1)[-1], name.rsplit(".", 2)[-2] if "." in name else ""
        if parent.endswith("norm"):
            weight.fill_(1 if leaf == "weight" else 0)
        elif weight.dim() == 2 and leaf != "r_k":
            weight.normal_(0, SCALE, generator=generator)
    before: Any = model.layers[0].block.pre_norm  # type: ignore[union-attr]
    before.weight.fill_(SCALE)
    for index, layer in enumerate(model.layers):
        _initialize_vectors(layer.block, index, model.size)


def _initialize_vectors(block: Any, index: int, size: Rwkv7Size) -> None:
    """As fla does: shares of the token before, decays and rates that differ by channel and by layer."""
    attn, device = block.attn, block.attn.k_k.device
    depth, left = index / max(size.layers - 1, 1), 1 - index / size.layers
    channel = torch.arange(size.width, device=device, dtype=torch.float32)
    share, slope = channel / size.width, channel / (size.width - 1) - 0.5
    wave = (channel % size.head_dim - (size.head_dim - 1) / 2) / ((size.head_dim - 1) / 2)
    wave = wave * wave.abs()
    for name, power in {"x_r": 0.2, "x_w": 0.9, "x_k": 0.7, "x_v": 0.7, "x_a": 0.9, "x_g": 0.2}.items():
        getattr(attn, name).copy_((1 - share ** (power * left)).view(1, 1, -1))
    block.ffn.x_k.copy_(1 - share**left**4)
    attn.k_a.fill_(1.02)
    attn.r_k.fill_(-0.04)
    attn.k_k.copy_(0.71 - slope * 0.1)
    decay = -6 + 6 * (channel / (size.width - 1)) ** (1 + depth**0.3)
    attn.w_lora.lora[2].bias.copy_(decay + 0.5 + wave * 2.5)
    attn.a_lora.lora[2].bias.copy_(-0.19 + wave * 0.3 + slope * 0.4)
    if hasattr(attn, "v_lora"):
        attn.v_lora.lora[2].bias.copy_(0.73 - slope * 0.4)
    attn.g_norm.weight.fill_(((index + 1) / size.layers) ** 0.7)


def build(request: ModelRequest) -> Rwkv7Model:
    """Build ``request.name`` with random weights from the seed."""
    prefills = request.device.type == "cuda" and request.dtype in SIXTEEN_BITS
    kind = Rwkv7ModelWithPrefill if prefills else Rwkv7Model
    model = kind(RWKV7[request.name], request.dtype, request.device)
    initialize(model, request.seed)
    return model.eval()


def build_plain(request: ModelRequest) -> Rwkv7Model:
    """The same model from plain PyTorch operations. Its weights are not initialized."""
    return Rwkv7Model(RWKV7[request.name], request.dtype, request.device, is_plain=True).eval()

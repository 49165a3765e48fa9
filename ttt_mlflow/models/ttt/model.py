"""TTT-Linear and TTT-MLP language models, for decoding.

Weight names are those of the published PyTorch model (test-time-training/ttt-lm-pytorch), so its checkpoints load
without conversion. Weights that are used together are adjacent in one tensor, and the named parameters are views of it.
One matrix product computes Q/K, V, the gate and the learning-rate logits.

The classes are in the order of execution. ``step`` processes one token, ``prefill`` a prompt.
"""

from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttt_mlflow.kernels.block import prefill_reference, reference
from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.kernels.overlapped.tensors import LayerTensors, StepTensors
from ttt_mlflow.models.ttt.config import LAUNCHES, TTTConfig, padded
from ttt_mlflow.models.ttt.inner_nets import InnerNet
from ttt_mlflow.models.ttt.state import LayerState, TTTState, allocate
from ttt_mlflow.models.ttt.whole_step import whole_step
from ttt_mlflow.workload import CONVOLUTION, FEED_FORWARD, HEAD, INNER, PROJECTIONS, SAMPLING, in_layer, in_part

PREFILL_TOKENS = 32768  # tokens of all sequences together that go through a layer at once
Functions = tuple[ModuleType, ModuleType]  # of a layer outside its inner net: for one token, and for a prompt


def parameter(data: Tensor) -> nn.Parameter:
    return nn.Parameter(data, requires_grad=False)


class Weight(nn.Module):
    """A named ``weight`` and, if given, ``bias``: a leaf of the published module tree."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = parameter(weight)
        if bias is not None:
            self.bias = parameter(bias)


class CausalConv(Weight):
    """Depthwise causal convolution. ``taps`` [4, D] is the storage; the published weight [D, 1, 4] is a view of it."""

    taps: Tensor

    def __init__(self, width: int, **where: Any) -> None:
        taps = torch.empty(CONV_TAPS, width, **where)
        super().__init__(taps.t().unsqueeze(1), torch.empty(width, **where))
        self.register_buffer("taps", taps, persistent=False)


class Conv(nn.Module):
    def __init__(self, width: int, **where: Any) -> None:
        super().__init__()
        self.norm = Weight(torch.empty(width, **where))
        self.conv = CausalConv(width, **where)


class FeedForward(nn.Module):
    """SwiGLU: ``gate_up`` [2 I, D] holds both input projections."""

    gate_up: Tensor

    def __init__(self, config: TTTConfig, **where: Any) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.register_buffer("gate_up", torch.empty(2 * inner, width, **where), persistent=False)
        self.gate_proj, self.up_proj = Weight(self.gate_up[:inner]), Weight(self.gate_up[inner:])
        self.down_proj = Weight(torch.empty(width, inner, **where))


class SequenceModeling(nn.Module):
    """The weights of one TTT layer. ``projection`` [3 D + H (padded), D]: rows for Q/K, V, gate and learning rate."""

    projection: Tensor
    eta: Tensor

    def __init__(self, config: TTTConfig, net: InnerNet, **where: Any) -> None:
        super().__init__()
        width, heads, dim = config.hidden_size, config.num_heads, config.head_dim
        self.register_buffer("projection", torch.zeros(padded(3 * width + heads), width, **where), persistent=False)
        self.q_proj = Weight(self.projection[:width])
        self.v_proj = Weight(self.projection[width : 2 * width])
        self.g_proj = Weight(self.projection[2 * width : 3 * width])
        self.learnable_ttt_lr_weight = parameter(self.projection[3 * width : 3 * width + heads].unsqueeze(1))
        self.learnable_ttt_lr_bias = parameter(torch.empty(heads, 1, **where))
        self.learnable_token_idx = parameter(torch.empty(MINI_BATCH, **where))
        self.conv_q, self.conv_k = CausalConv(width, **where), CausalConv(width, **where)
        self.ttt_norm_weight = parameter(torch.empty(heads, dim, **where))
        self.ttt_norm_bias = parameter(torch.empty(heads, dim, **where))
        for name, shape in zip(net.layer.state_names, net.layer.state_shapes(dim), strict=True):
            published = shape if len(shape) == 2 else (1, *shape)  # a published bias is a row
            self.register_parameter(name, parameter(torch.empty(heads, *published, **where)))
        self.post_norm = Weight(torch.empty(width, **where), torch.empty(width, **where))
        self.o_proj = Weight(torch.empty(width, width, **where))
        # η_t = max(1 / (t + 1) + learnable_t, 0), computed by `TTTModel.weights_changed`
        self.register_buffer("eta", torch.empty(MINI_BATCH, device=where["device"]), persistent=False)


class Layer(nn.Module):
    def __init__(self, config: TTTConfig, net: InnerNet, functions: Functions, **where: Any) -> None:
        super().__init__()
        self.config, self.net = config, net
        self.functions, self.prefill_functions = functions
        self.conv = Conv(config.hidden_size, **where)
        self.seq_norm = Weight(torch.empty(config.hidden_size, **where))
        self.seq_modeling_block = SequenceModeling(config, net, **where)
        self.ffn_norm = Weight(torch.empty(config.hidden_size, **where))
        self.mlp = FeedForward(config, **where)

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q/K, V, gate [..., D] and learning-rate logits [..., H], as views of the fused projection's output."""
        width, heads = self.config.hidden_size, self.config.num_heads
        qk, v, gate, logits, _ = projected.split(
            (width, width, width, heads, projected.shape[-1] - 3 * width - heads), dim=-1
        )
        return qk, v, gate, logits

    def tensors(self, state: LayerState) -> LayerTensors:
        """All that a decode step of this layer reads and writes."""
        block, conv = self.seq_modeling_block, self.conv
        return LayerTensors(
            conv.norm.weight, conv.conv.taps, conv.conv.bias, self.seq_norm.weight, block.projection,
            block.conv_q.taps, block.conv_q.bias, block.conv_k.taps, block.conv_k.bias, block.learnable_ttt_lr_bias,
            block.eta, block.ttt_norm_weight, block.ttt_norm_bias, block.post_norm.weight, block.post_norm.bias,
            block.o_proj.weight, self.ffn_norm.weight, self.mlp.gate_up, self.mlp.down_proj.weight,
            state.conv, state.qk_conv, state.inner, state.slots,
        )  # fmt: skip

    def step(
        self,
        hidden: Tensor,
        delta: Tensor,
        position: Tensor,
        cos: Tensor,
        sin: Tensor,
        conv: Tensor,
        qk_conv: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One token: hidden [B, D], and the previous layer's output ``delta`` [B, D], which is not yet added to it.

        Returns the same pair for the next layer.
        """
        block, functions = self.seq_modeling_block, self.functions
        with in_part(CONVOLUTION):
            hidden, x = functions.conv_rms_norm(
                hidden, delta, conv, position,
                self.conv.norm.weight, self.conv.conv.taps, self.conv.conv.bias, self.seq_norm.weight,
            )  # fmt: skip
        with in_part(PROJECTIONS):
            qk, v, gate, logits = self.split(F.linear(x, block.projection))
        with in_part(CONVOLUTION):
            q, k, lr = functions.qk_conv_rotary(
                qk, logits, qk_conv, position,
                block.conv_q.taps, block.conv_q.bias, block.conv_k.taps, block.conv_k.bias,
                block.learnable_ttt_lr_bias.squeeze(1), cos, sin, self.net.layer.base_lr,
            )  # fmt: skip
        with in_part(INNER):
            x = self.net.decode(q, k, v, lr, block.eta, position, block.ttt_norm_weight, block.ttt_norm_bias, *state)
        with in_part(PROJECTIONS):
            x = functions.gated_layer_norm(x, gate, block.post_norm.weight, block.post_norm.bias)
            x = F.linear(x, block.o_proj.weight)
        with in_part(FEED_FORWARD):
            hidden, x = functions.add_rms_norm(hidden, x, self.ffn_norm.weight)
            x = functions.swiglu(F.linear(x, self.mlp.gate_up))
            return hidden, F.linear(x, self.mlp.down_proj.weight)

    def prefill(
        self, hidden: Tensor, position: Tensor, cos: Tensor, sin: Tensor, state: LayerState, last: bool
    ) -> Tensor:
        """Some tokens of a prompt: hidden [B, L, D] to the same, or to that of the last token alone, [B, 1, D].

        ``position``: that of the first token in its mini-batch. ``last``: the caller needs the last token alone, of
        which the state of the sequence is all that other tokens tell.
        """
        block, functions = self.seq_modeling_block, self.prefill_functions
        with in_part(CONVOLUTION):
            hidden, x = functions.conv_rms_norm(
                hidden, state.conv, position,
                self.conv.norm.weight, self.conv.conv.taps, self.conv.conv.bias, self.seq_norm.weight,
            )  # fmt: skip
        with in_part(PROJECTIONS):
            qk, v, gate, logits = self.split(F.linear(x, block.projection))
        with in_part(CONVOLUTION):
            q, k, lr = functions.qk_conv_rotary(
                qk, logits, state.qk_conv, position,
                block.conv_q.taps, block.conv_q.bias, block.conv_k.taps, block.conv_k.bias,
                block.learnable_ttt_lr_bias.squeeze(1), cos, sin, self.net.layer.base_lr,
            )  # fmt: skip
        with in_part(INNER):
            x = self.net.prefill(
                q, k, v, lr, block.eta, position, block.ttt_norm_weight, block.ttt_norm_bias, *state.inner, *state.slots
            )
        if last:
            hidden, x, gate = (rows[:, -1:].contiguous() for rows in (hidden, x, gate))
        rows = hidden.flatten(0, 1)  # the products are added to it in place
        with in_part(PROJECTIONS):
            x = functions.gated_layer_norm(x, gate, block.post_norm.weight, block.post_norm.bias)
            torch.addmm(rows, x.flatten(0, 1), block.o_proj.weight.t(), out=rows)
        with in_part(FEED_FORWARD):
            x = functions.swiglu(F.linear(functions.rms_norm(hidden, self.ffn_norm.weight), self.mlp.gate_up))
            torch.addmm(rows, x.flatten(0, 1), self.mlp.down_proj.weight.t(), out=rows)
        return hidden


class Backbone(nn.Module):
    """The published ``model`` module: embeddings, layers, last norm."""

    table: Tensor

    def __init__(self, config: TTTConfig, net: InnerNet, functions: Functions, **where: Any) -> None:
        super().__init__()
        # padded to full tiles for the output projection, which shares these weights
        table = torch.zeros(padded(config.vocab_size), config.hidden_size, **where)
        self.register_buffer("table", table, persistent=False)
        self.embed_tokens = Weight(table[: config.vocab_size])
        self.layers = nn.ModuleList(Layer(config, net, functions, **where) for _ in range(config.num_layers))
        self.norm = Weight(torch.empty(config.hidden_size, **where))


class TTTModel(nn.Module):
    """A TTT language model; see :class:`ttt_mlflow.models.entry.DecodeModel`."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        config: TTTConfig,
        net: InnerNet,
        dtype: torch.dtype,
        device: torch.device,
        *,
        is_plain: bool = False,
        decode_path: str = LAUNCHES,
    ) -> None:
        """is_plain: without Triton kernels outside the inner net too, on any device. decode_path: how a step runs, one
        of :data:`ttt_mlflow.models.ttt.config.DECODE_PATHS`.
        """
        super().__init__()
        self.config, self.net = config, net
        self.vocab_size = config.vocab_size
        self.dtype, self.device = dtype, device
        functions: Functions = reference, prefill_reference
        if net.triton or (device.type == "cuda" and not is_plain):
            from ttt_mlflow.kernels.block import fused, prefill

            functions = fused, prefill
        self.functions, self.prefill_functions = functions
        self.model = Backbone(config, net, functions, dtype=dtype, device=device)
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        angle = torch.outer(torch.arange(MINI_BATCH, dtype=torch.float32), config.rope_theta**-half)
        self.register_buffer("cos", angle.cos().to(device), persistent=False)  # [M, F / 2]
        self.register_buffer("sin", angle.sin().to(device), persistent=False)
        self._layer_steps: list[Any] = [layer.step for layer in self.layers]
        self.use(decode_path)

    @property
    def layers(self) -> list[Layer]:
        return list(self.model.layers)  # type: ignore[arg-type]

    def parameter_count(self) -> int:
        return sum(weight.numel() for weight in self.parameters())

    def memory_parts(self, state: TTTState) -> dict[str, list[Tensor]]:
        """The tensors that persist from step to step, by their kind."""
        kept = state.layers
        held = [state.position, *(tensor for one in kept for tensor in (one.conv, one.qk_conv, *one.inner))]
        return {
            "weights": [*self.parameters(), *self.buffers()],
            "state": held,
            "vectors": [tensor for one in kept for tensor in one.slots],
        }

    def use(self, decode_path: str) -> None:
        """Let states that are made from now on decode on this path, one of
        :data:`ttt_mlflow.models.ttt.config.DECODE_PATHS`."""
        self.decode_path = decode_path

    def weights_changed(self) -> None:
        """Compute the values that are derived from the weights. Call it after loading or initializing them."""
        for layer in self.layers:
            block = layer.seq_modeling_block
            steps = torch.arange(1, MINI_BATCH + 1, dtype=torch.float32, device=self.device)
            block.eta.copy_((1 / steps + block.learnable_token_idx.float()).clamp_min(0))

    def compile_step(self) -> None:
        """Compile the layers' step. All layers share one compiled function that takes their weights as inputs."""
        self._layer_steps = [torch.compile(layer.step, dynamic=False) for layer in self.layers]

    def new_state(self, batch: int) -> TTTState:
        state = allocate(self.config, self.net, batch, self.dtype, self.device)
        state = replace(state, whole_step=whole_step(self.decode_path, self.step_tensors(state), batch))
        self.reset_state(state)
        return state

    def step_tensors(self, state: TTTState) -> StepTensors:
        """All that a decode step reads and writes."""
        layers = [layer.tensors(kept) for layer, kept in zip(self.layers, state.layers, strict=True)]
        backbone = self.model
        return StepTensors(
            layers, backbone.table, backbone.norm.weight, self.cos, self.sin, state.position, self.net.layer,
            self.vocab_size,
        )  # fmt: skip

    def reset_state(self, state: TTTState) -> None:
        """Start of a sequence. The mini-batch's vectors are not reset, because none is read before it is written."""
        state.position.zero_()
        for layer, layer_state in zip(self.layers, state.layers, strict=True):
            layer_state.conv.zero_()
            layer_state.qk_conv.zero_()
            for tensor, name in zip(layer_state.inner, self.net.layer.state_names, strict=True):
                initial = getattr(layer.seq_modeling_block, name).view(tensor.shape[1:])
                # PyTorch repeats element by element, whatever the size
                words = tensor.view(torch.complex128)
                words.copy_(initial.view(torch.complex128).expand_as(words))

    def step(self, tokens: Tensor, state: TTTState) -> Tensor:
        """Feed one token per sequence: tokens [B] to logits [B, V]."""
        if state.whole_step:
            return state.whole_step(tokens, torch.empty_like(tokens)).clone()  # it is overwritten by the next step
        with in_part(HEAD):
            hidden = F.embedding(tokens, self.model.table)
            delta = torch.zeros_like(hidden)
        for index, (layer_step, kept) in enumerate(zip(self._layer_steps, state.layers, strict=True)):
            with in_layer(index):
                hidden, delta = layer_step(
                    hidden, delta, state.position, self.cos, self.sin, kept.conv, kept.qk_conv, *kept.inner, *kept.slots
                )
        with in_part(INNER):
            state.position.add_(1).remainder_(MINI_BATCH)
        with in_part(HEAD):
            _, x = self.functions.add_rms_norm(hidden, delta, self.model.norm.weight)
            return self.logits(x)

    def greedy_step(self, tokens: Tensor, state: TTTState) -> None:
        """Feed one token per sequence, tokens [B], and replace each by the next one, that of the largest logit."""
        if state.whole_step:
            state.whole_step(tokens, tokens)
            return
        logits = self.step(tokens, state)
        with in_part(SAMPLING):
            tokens.copy_(logits.argmax(-1))

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.model.table)[:, : self.vocab_size]

    def prefill(self, tokens: Tensor, state: TTTState) -> Tensor:
        """Feed a prompt in the dual form, from any position: tokens [B, P] to the last token's logits [B, V].

        It is processed in parts, which limits the memory: the state carries over from part to part. Raises ValueError
        for a prompt without tokens.
        """
        if not tokens.shape[1]:
            raise ValueError("a prompt of 0 tokens: prefill takes one or more")
        for some in tokens.split(max(PREFILL_TOKENS // tokens.shape[0], 1), 1):
            with in_part(HEAD):
                hidden = F.embedding(some, self.model.table)
            for index, (one, kept) in enumerate(zip(self.layers, state.layers, strict=True)):
                with in_layer(index):
                    last = index == len(self.layers) - 1
                    hidden = one.prefill(hidden, state.position, self.cos, self.sin, kept, last)
            with in_part(INNER):
                state.position.add_(some.shape[1]).remainder_(MINI_BATCH)
        with in_part(HEAD):
            return self.logits(self.prefill_functions.rms_norm(hidden, self.model.norm.weight)[:, -1])

"""A decoder-only transformer, for comparison: RMSNorm, rotary embedding, SwiGLU, shared KV heads as an option.

The architecture is that of LLaMA (Touvron et al. 2023, arXiv 2302.13971), with tied embeddings and random weights. One
matrix product computes queries, keys and values, another gate and up. ``step`` processes one token, ``prefill`` a
prompt; both are in the order of execution.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttt_mlflow.kernels.attention import reference as attention_reference
from ttt_mlflow.kernels.block import prefill_reference, reference
from ttt_mlflow.kernels.overlapped.tensors import TransformerLayerTensors, TransformerTensors
from ttt_mlflow.models.transformer import attention
from ttt_mlflow.models.transformer.attention import MATH, SPLIT_KV, Asked, Choice, Functions
from ttt_mlflow.models.transformer.config import PREFILL_TOKENS, TransformerConfig
from ttt_mlflow.models.transformer.state import LayerCache, TransformerState, allocate
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED
from ttt_mlflow.models.ttt.model import padded, parameter
from ttt_mlflow.models.ttt.whole_step import WholeStep
from ttt_mlflow.workload import ATTENTION, FEED_FORWARD, HEAD, PROJECTIONS, SAMPLING, Workload, in_layer, in_part

if TYPE_CHECKING:  # Triton takes seconds to import, which a model on a CPU need not wait for
    from ttt_mlflow.kernels.overlapped.tuning import Tuning

AUTO = "auto"  # what was chosen by PyTorch has no name


class Layer(nn.Module):
    def __init__(self, config: TransformerConfig, functions: Functions, choice: Choice, **where: Any) -> None:
        super().__init__()
        self.config, self.functions, self.choice = config, functions, choice
        width, inner = config.hidden_size, config.intermediate_size
        self.attention_norm = parameter(torch.empty(width, **where))
        self.qkv = parameter(torch.empty(config.projected, width, **where))
        self.o = parameter(torch.empty(width, width, **where))
        self.ffn_norm = parameter(torch.empty(width, **where))
        self.gate_up = parameter(torch.empty(2 * inner, width, **where))
        self.down = parameter(torch.empty(width, inner, **where))

    def step(
        self,
        hidden: Tensor,
        delta: Tensor,
        position: Tensor,
        cos: Tensor,
        sin: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One token: hidden [B, D], and the previous layer's output ``delta`` [B, D], which is not yet added to it.

        mask: :func:`attention.step_mask`, for an attention that needs one. Returns the same pair for the next layer.
        """
        functions, heads = self.functions, self.config.num_heads
        with in_part(PROJECTIONS):
            hidden, x = functions.step.add_rms_norm(hidden, delta, self.attention_norm)
            x = F.linear(x, self.qkv)
        with in_part(ATTENTION):
            # no name for the tensors together: it would keep ``x`` until the layer ends
            x = attention.step_attention(functions.cache, self.choice, (x, position, cos, sin, k, v), heads, mask)
        with in_part(PROJECTIONS):
            x = F.linear(x, self.o)
        with in_part(FEED_FORWARD):
            hidden, x = functions.step.add_rms_norm(hidden, x, self.ffn_norm)
            return hidden, F.linear(functions.step.swiglu(F.linear(x, self.gate_up)), self.down)

    def prefill(
        self, hidden: Tensor, position: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache, last: bool
    ) -> Tensor:
        """Whole prompts: hidden [B, P, D] to the same, or to that of the last token alone, [B, 1, D].

        ``position`` is zero. ``last``: the caller needs the last token alone, of which the cache is all that other
        tokens tell.
        """
        functions, config, length = self.functions, self.config, hidden.shape[1]
        with in_part(PROJECTIONS):
            x = F.linear(functions.prompt.rms_norm(hidden, self.attention_norm), self.qkv)
        with in_part(ATTENTION):
            q = functions.cache.rotate_into_cache(x, position, cos, sin, cache.k, cache.v, config.num_heads)
            k, v = cache.k[:, :, :length], cache.v[:, :, :length]
            if last:
                # a copy: of one sequence it would be a view, which keeps the whole prompt
                hidden, q = hidden[:, -1:].clone(memory_format=torch.contiguous_format), q[:, -1:]
                x = attention.last_attention(q, k, v)
            else:
                x = attention.prompt_attention(q, k, v, self.choice.prompt)
            del q
        rows = hidden.flatten(0, 1)  # the products are added to it in place
        with in_part(PROJECTIONS):
            torch.addmm(rows, x.flatten(0, 1), self.o.t(), out=rows)
        with in_part(FEED_FORWARD):
            x = functions.prompt.rms_norm(hidden, self.ffn_norm)
            x = F.linear(x, self.gate_up)  # one name for all: what is not needed any more is freed
            x = functions.prompt.swiglu(x)
            torch.addmm(rows, x.flatten(0, 1), self.down.t(), out=rows)
        return hidden


class TransformerModel(nn.Module):
    """A transformer with a KV cache; see :class:`ttt_mlflow.models.entry.DecodeModel`."""

    table: Tensor

    def __init__(
        self,
        config: TransformerConfig,
        dtype: torch.dtype,
        device: torch.device,
        attn_impl: str | None = None,
        workload: Workload | None = None,
        is_plain: bool = False,
        decode_path: str = LAUNCHES,
    ) -> None:
        """attn_impl: what was asked for. workload: what the attentions are chosen for; None: not by measurement.

        is_plain: without Triton kernels, on any device. decode_path: how a step runs, one of
        :data:`ttt_mlflow.models.ttt.config.DECODE_PATHS`.
        """
        super().__init__()
        self.config, self.dtype, self.device = config, dtype, device
        self.vocab_size = config.vocab_size
        self.workload, self.asked = workload, attention.check_on(device, attn_impl)
        if workload and workload.mode == "prefill" and workload.promptlen > 1:
            self.asked = Asked(self.asked.prompt, None)  # steps are not timed: one that always runs
        if dtype == torch.float64:
            self.asked = Asked(None, None)  # for comparison: what computes in it is PyTorch's affair
        functions = Functions(reference, prefill_reference, attention_reference)
        kernels = not is_plain and dtype != torch.float64 and (device.type == "cuda" or self.asked.step == SPLIT_KV)
        if kernels:
            from ttt_mlflow.kernels.attention import decode
            from ttt_mlflow.kernels.block import fused, prefill

            functions = Functions(fused, prefill, decode)
        prompt = self.asked.prompt or (attention.ON_A_CPU["prompt"][0] if device.type == "cpu" else None)
        self.choice = Choice(prompt, self.asked.step or (SPLIT_KV if kernels else MATH), {})
        if is_plain:
            self.choice = Choice(None, MATH, {})
        self.functions = functions
        where: Any = {"dtype": dtype, "device": device}
        # padded to full tiles for the output projection, which shares these weights
        table = torch.zeros(padded(config.vocab_size), config.hidden_size, **where)
        self.register_buffer("table", table, persistent=False)
        self.embeddings = parameter(table[: config.vocab_size])
        self.blocks = nn.ModuleList(Layer(config, functions, self.choice, **where) for _ in range(config.num_layers))
        self.norm = parameter(torch.empty(config.hidden_size, **where))
        self._layer_steps: list[Any] = [layer.step for layer in self.layers]
        self.use(decode_path)

    @property
    def layers(self) -> list[Layer]:
        return list(self.blocks)  # type: ignore[arg-type]

    @property
    def attn_impl(self) -> str:
        """The attentions that the workload uses, as a value of the parameter. A prompt of one token is a step."""
        workload, choice = self.workload, self.choice
        of_prompt = workload is None or workload.promptlen > 1
        of_step = workload is None or workload.mode == "decode" or not of_prompt
        return attention.recorded(choice.prompt if of_prompt else None, choice.step if of_step else None) or AUTO

    def parameter_count(self) -> int:
        return sum(weight.numel() for weight in self.parameters())

    def memory_parts(self, state: TransformerState) -> dict[str, list[Tensor]]:
        """The tensors that persist from step to step, by their kind."""
        return {
            "weights": [*self.parameters(), *self.buffers()],
            "state": [
                state.position,
                state.cos,
                state.sin,
                *(one for kept in state.layers for one in (kept.k, kept.v)),
            ],
        }

    def use(self, decode_path: str) -> None:
        """Let caches that are made from now on decode on this path, one of
        :data:`ttt_mlflow.models.ttt.config.DECODE_PATHS`."""
        self.decode_path = decode_path

    def compile_step(self) -> None:
        """Compile the layers' step. All layers share one compiled function that takes their weights as inputs."""
        self._layer_steps = [torch.compile(layer.step, dynamic=False) for layer in self.layers]

    def new_cache(self, batch: int, max_length: int) -> TransformerState:
        """Raises ValueError for what the kernels that overlap cannot do, if they are to be used."""
        state = allocate(self.config, batch, max_length, self.dtype, self.device)
        self._default_launch(state)
        if self.decode_path == OVERLAPPED:
            state = replace(state, whole_step=self.whole_step(state))
        return state

    def whole_step(self, state: TransformerState, tuning: "Tuning | None" = None) -> WholeStep:
        """The decode step of a cache as kernels that overlap. tuning: another choice than that for the batch.

        Raises ValueError for what they cannot do.
        """
        from ttt_mlflow.kernels.overlapped.transformer import TransformerStep

        attention_of_step, batch = partial(self._step_attention, state), state.layers[0].k.shape[0]
        return TransformerStep(self.step_tensors(state), batch, attention_of_step, tuning=tuning)

    def step_tensors(self, state: TransformerState) -> TransformerTensors:
        """All that a decode step reads and writes."""
        layers = [
            TransformerLayerTensors(
                one.attention_norm, one.qkv, one.o, one.ffn_norm, one.gate_up, one.down, kept.k, kept.v
            )
            for one, kept in zip(self.layers, state.layers, strict=True)
        ]
        return TransformerTensors(layers, self.table, self.norm, state.cos, state.sin, state.position, self.vocab_size)

    def _step_attention(self, state: TransformerState, overlap: bool) -> Callable[..., Tensor]:
        """The attention of the next step, for launches that overlap or do not."""
        mask, functions, heads = self._step_mask(state), self.functions.cache, self.config.num_heads

        def attend(*tensors: *attention.Tensors) -> Tensor:
            return attention.step_attention(functions, self.choice, tensors, heads, mask, overlap)

        return attend

    def _step_mask(self, state: TransformerState) -> Tensor | None:
        if not attention.needs_mask(self.choice):
            return None
        return attention.step_mask(state.position, state.length, self.dtype)

    def _default_launch(self, state: TransformerState) -> None:
        if self.choice.step == SPLIT_KV and self.device.type == "cuda":
            from ttt_mlflow.kernels.attention.launch import default_launch

            multiprocessors = torch.cuda.get_device_properties(self.device).multi_processor_count
            heads = state.layers[0].k.shape[0] * self.config.num_kv_heads
            self.choice.launch = default_launch(heads, state.length, multiprocessors, self.dtype).options

    def choose(self, state: TransformerState) -> None:
        """Take the attentions that are fastest for the workload on this GPU. On a CPU there is nothing to choose."""
        if self.device.type == "cuda" and self.workload is not None:
            from ttt_mlflow.models.transformer.choice import choose

            choose(self, state, self.workload)

    def reset_state(self, state: TransformerState) -> None:
        """Start of a sequence. The cache is not reset, because nothing of it is read before it is written."""
        state.position.zero_()

    def step(self, tokens: Tensor, state: TransformerState) -> Tensor:
        """Feed one token per sequence: tokens [B] to logits [B, V]."""
        if state.whole_step:
            return state.whole_step(tokens, torch.empty_like(tokens)).clone()  # it is overwritten by the next step
        with in_part(HEAD):
            hidden = F.embedding(tokens, self.table)
            delta = torch.zeros_like(hidden)
        with in_part(ATTENTION):
            mask = self._step_mask(state)
        for index, (layer_step, kept) in enumerate(zip(self._layer_steps, state.layers, strict=True)):
            with in_layer(index):
                hidden, delta = layer_step(hidden, delta, state.position, state.cos, state.sin, kept.k, kept.v, mask)
        with in_part(ATTENTION):
            state.position.add_(1)
        with in_part(HEAD):
            _, x = self.functions.step.add_rms_norm(hidden, delta, self.norm)
            return self.logits(x)

    def greedy_step(self, tokens: Tensor, state: TransformerState) -> None:
        """Feed one token per sequence, tokens [B], and replace each by the next one, that of the largest logit."""
        if state.whole_step:
            state.whole_step(tokens, tokens)
            return
        logits = self.step(tokens, state)
        with in_part(SAMPLING):
            tokens.copy_(logits.argmax(-1))

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.table)[:, : self.vocab_size]

    def prefill(self, tokens: Tensor, state: TransformerState) -> Tensor:
        """Begin sequences with a prompt: tokens [B, P] to the last token's logits [B, V].

        The cache is filled from its beginning, whatever ``state`` had before. Groups of whole sequences go through the
        layers one after the other, which limits the memory. Raises ValueError for a prompt without tokens, and for one
        that is longer than the cache.
        """
        batch, length = tokens.shape
        if not 1 <= length <= state.length:
            raise ValueError(f"a prompt of {length} tokens: the cache takes 1 to {state.length}")
        state.position.zero_()
        at_once = max(PREFILL_TOKENS // length, 1)
        rows = [self._prefill(tokens, state, first, at_once) for first in range(0, batch, at_once)]
        state.position.fill_(length)
        with in_part(HEAD):
            return self.logits(self.functions.prompt.rms_norm(torch.cat(rows), self.norm)[:, 0])

    def _prefill(self, tokens: Tensor, state: TransformerState, first: int, count: int) -> Tensor:
        """``count`` sequences from ``first`` on: the last token's hidden row [count, 1, D]."""
        some = slice(first, first + count)
        with in_part(HEAD):
            hidden = F.embedding(tokens[some], self.table)
        for index, (layer, kept) in enumerate(zip(self.layers, state.layers, strict=True)):
            with in_layer(index):
                cache = LayerCache(kept.k[some], kept.v[some])
                last = index == len(self.layers) - 1
                hidden = layer.prefill(hidden, state.position, state.cos, state.sin, cache, last)
        return hidden


def initialize(model: TransformerModel, seed: int) -> None:
    """Random weights: normal with a deviation of 0.02, norms of one. A seed gives the same on one kind of device."""
    generator = torch.Generator(model.device).manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("norm"):
            weight.fill_(1)
        else:
            weight.normal_(0, 0.02, generator=generator)

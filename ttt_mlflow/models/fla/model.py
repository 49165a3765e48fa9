"""What the models of flash-linear-attention share: embeddings and head around its layers, and its prefill.

Weights are in fla's own layers, with fla's names. Those that are used together are adjacent in one tensor, and the
layer's parameters are views of it. A prompt goes through fla's layers as they are, with fla's kernels, which need a GPU
and 16 bits; its final state is written into the state of the decode steps. Otherwise a prompt goes token by token
through the step. A decode step has kernels of this package (:mod:`ttt_mlflow.kernels.gated_delta`,
:mod:`ttt_mlflow.kernels.rwkv7`): fla's own step makes new tensors for its state.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttt_mlflow.models.fla.sizes import VOCABULARY_MULTIPLE, padded
from ttt_mlflow.models.named_calls import inside
from ttt_mlflow.models.tuning import forget_tuning
from ttt_mlflow.workload import FEED_FORWARD, HEAD, PROJECTIONS, in_layer, in_part, recording

PREFILL_TOKENS = 65536  # tokens of all sequences together that go through a layer at once
SIXTEEN_BITS = (torch.float16, torch.bfloat16)
Function = tuple[ModuleType, str, str]  # where fla looks it up, its name, and its part of the model


def parameter(data: Tensor) -> nn.Parameter:
    return nn.Parameter(data, requires_grad=False)


def take_rows(fused: Tensor, linears: Sequence[Any]) -> None:
    """Make the weights of ``linears`` consecutive rows of ``fused``."""
    start = 0
    for linear in linears:
        rows = linear.weight.shape[0]
        linear.weight = parameter(fused[start : start + rows])
        start += rows


def allocate_rest(block: nn.Module, dtype: torch.dtype, device: torch.device, single: Sequence[str] = ()) -> None:
    """Memory for the parameters of ``block`` that are fla's own yet, without memory.

    single: names of those that stay in float32.
    """
    for module in block.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.requires_grad:  # ours do not
                of = torch.float32 if name in single else dtype
                setattr(module, name, parameter(torch.empty(weight.shape, dtype=of, device=device)))


class FlaModel(nn.Module):
    """Embeddings, layers, a last norm and a head that shares the embeddings. See ``DecodeModel``.

    layers: one of ours around each of fla's, which is its ``block``.
    """

    norm: Any

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module, width: int, vocab: int, where: dict[str, Any]):
        super().__init__()
        self.vocab_size, self.width = vocab, width
        self.dtype, self.device = where["dtype"], where["device"]
        rows = padded(vocab, VOCABULARY_MULTIPLE)
        self.embeddings = parameter(torch.empty(rows, width, **where))
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self._layer_steps: list[Any] = [layer.step for layer in layers]

    def parameter_count(self) -> int:
        return sum(weight.numel() for weight in self.parameters())

    def compile_step(self) -> None:
        """Compile the layers' step. Their kernels stay as they are."""
        layers: list[Any] = list(self.layers)
        self._layer_steps = [torch.compile(layer.step, dynamic=False) for layer in layers]

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embeddings)[:, : self.vocab_size]

    def package_weights(self) -> dict[str, Tensor]:
        """The weights with the names that they have in fla's model, as for its ``load_state_dict``."""
        named: dict[str, Tensor] = {name.replace(".block.", "."): weight for name, weight in self.named_parameters()}
        table = named.pop("embeddings")
        within = {f"model.{name}": weight for name, weight in named.items()}
        return within | {"model.embeddings.weight": table, "lm_head.weight": table}

    def _through_layers(self, tokens: Tensor, cache: Any, functions: Sequence[Function], **first: Any) -> Tensor:
        """Some tokens [B, P] through fla's layers, which update ``cache``. Returns the last one's hidden state [B, D].

        first: arguments of the first layer beside these; a layer returns those of the next one.
        """
        with in_part(HEAD):
            hidden = F.embedding(tokens, self.embeddings)
        with named_layers(self.layers, functions):
            for layer in self.layers:
                block: Any = layer.block
                hidden, _, _, kept = block(hidden, past_key_values=cache, use_cache=True, **first)
                first = dict.fromkeys(first, kept)
        return hidden[:, -1]

    def _parts_of(self, prompt: Tensor) -> Iterator[Tensor]:
        """The prompt [B, P] in parts, which limits the memory: the state carries over from part to part."""
        if not prompt.shape[1]:
            raise ValueError("a prompt of 0 tokens: prefill takes one or more")
        yield from prompt.split(max(PREFILL_TOKENS // prompt.shape[0], 1), 1)

    def _new_batch(self) -> None:
        if self.device.type == "cuda":
            forget_tuning("fla")


@contextmanager
def named_layers(layers: nn.ModuleList, functions: Sequence[Function]) -> Iterator[None]:
    """Name fla's layers and their parts while a profiler uses names. Otherwise, do nothing.

    The work of a layer counts as its projections, except for ``functions`` and the feed-forward.
    """
    if not recording():
        yield
        return

    def of_layer(index: int) -> Callable[[], Any]:
        @contextmanager
        def named() -> Iterator[None]:
            with in_layer(index), in_part(PROJECTIONS):
                yield

        return named

    with ExitStack() as stack:
        for module, name, part in functions:
            stack.enter_context(inside(module, name, partial(in_part, part)))
        for index, layer in enumerate(layers):
            block: Any = layer.block
            stack.enter_context(inside(block, "forward", of_layer(index)))
            feed_forward = block.mlp if hasattr(block, "mlp") else block.ffn
            stack.enter_context(inside(feed_forward, "forward", partial(in_part, FEED_FORWARD)))
        yield

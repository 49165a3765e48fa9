"""The tasks of inner nets, a decode step or a prompt: random tokens, and a state of the size of a layer's state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from ttt_mlflow.kernels.inner_layers import (
    LINEAR,
    MINI_BATCH,
    MLP,
    InnerLayer,
    decode_kernel_bytes,
    inner_flops,
    inner_layer,
    prompt_kernel_bytes,
)
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_prefill
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode, mlp_prefill
from ttt_mlflow.micro.task import RandomSource, Source

STATE_STD = 0.02  # the initialization of the published models
# The tokens of each call of the check. Of the two pieces of a prompt, neither is whole mini-batches: the second one
# begins with the vectors that the first one kept. In both modes, the state is folded, read after it, and folded again.
CALLS = {"decode": (1,) * (2 * MINI_BATCH + 3), "prefill": (MINI_BATCH + 7, 2 * MINI_BATCH - 4)}
# Both forms have the same result, so one float64 twin checks both.
TWINS: dict[tuple[str, InnerLayer], Callable[..., Tensor]] = {
    ("decode", LINEAR): linear_decode,
    ("decode", MLP): mlp_decode,
    ("prefill", LINEAR): linear_prefill,
    ("prefill", MLP): mlp_prefill,
}


@dataclass(frozen=True)
class StepShape:
    """The decode step of one layer: inner net, form and sizes."""

    mode: ClassVar[str] = "decode"
    wording: ClassVar[tuple[str, str, str]] = ("a step", "[B, D]", "only state and kept")
    most_copies: ClassVar[int] = 128  # each has the launches of a mini-batch

    layer_type: str
    form: str
    batch: int
    heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def inner_layer(self) -> InnerLayer:
        return inner_layer(self.layer_type)

    @property
    def state(self) -> list[tuple[int, ...]]:
        """Shapes of the inner net's weights: W [B, H, F, F] and b [B, H, F], or those of both layers."""
        return [(self.batch, self.heads, *shape) for shape in self.inner_layer.state_shapes(self.head_dim)]

    @property
    def kept(self) -> list[tuple[int, ...]]:
        """Shapes of what is kept between the tokens of a mini-batch: vectors [B, H, M, X], or sums like the state."""
        if self.form == "accumulating":
            return self.state
        return [(self.batch, self.heads, MINI_BATCH, width) for width in self.inner_layer.slot_widths(self.head_dim)]

    @property
    def floor_bytes(self) -> float:
        """The minimum bytes of a step, in any form; see :func:`decode_kernel_bytes`."""
        return decode_kernel_bytes(self.layer_type, self.batch, self.heads, self.head_dim, self.dtype)

    @property
    def flops(self) -> float:
        """The operations of a step, mean over a mini-batch; see :func:`inner_flops`."""
        return self.batch * self.heads * inner_flops(self.layer_type, MINI_BATCH, self.head_dim) / MINI_BATCH

    @property
    def calls(self) -> tuple[int, ...]:
        """The tokens of each call that is timed: those of a mini-batch, one by one."""
        return (1,) * MINI_BATCH

    @property
    def checked_calls(self) -> tuple[int, ...]:
        return CALLS[self.mode]

    @property
    def promptlen(self) -> int | None:
        return None

    @property
    def results(self) -> Mapping[str, torch.dtype]:
        return {"out": self.dtype}

    @property
    def twin(self) -> Callable[..., Tensor]:
        return TWINS[self.mode, self.inner_layer]

    def inputs(self, source: Source, calls: Sequence[int] | None = None) -> "StepInputs":
        return make_inputs(self, source, calls)

    def exact(self, inputs: "StepInputs") -> "StepInputs":
        """The twin keeps vectors, and finds NaN where it must not read."""
        kept, source = replace(self, form="rank-1").kept, RandomSource(0, inputs.device)
        return replace(inputs.double(), kept=tuple(source.poisoned(part, torch.float64) for part in kept))

    def changes_state(self, inputs: "StepInputs", call: int) -> bool:
        """After a fold."""
        return inputs.starts[call] + self.checked_calls[call] >= MINI_BATCH

    @property
    def copy_bytes(self) -> int:
        """Bytes of one :class:`StepInputs` with the tokens of :attr:`calls`."""
        token = self.batch * self.heads * (3 * self.head_dim * self.dtype.itemsize + 4)
        elements = sum(prod(shape) for shape in [*self.state, *self.kept])
        return sum(self.calls) * token + elements * self.dtype.itemsize

    def vectors(self, tokens: int) -> tuple[int, ...]:
        """Shape of q, k and v of a call: [B, D]."""
        return (self.batch, self.heads * self.head_dim)

    def rates(self, tokens: int) -> tuple[int, ...]:
        """Shape of the learning rates of a call: [B, H]."""
        return (self.batch, self.heads)


@dataclass(frozen=True)
class PromptShape(StepShape):
    """A prompt of ``tokens`` tokens through one layer."""

    mode: ClassVar[str] = "prefill"
    wording: ClassVar[tuple[str, str, str]] = ("a prompt", "[B, L, D]", "only state and kept")

    tokens: int

    @property
    def promptlen(self) -> int | None:
        return self.tokens

    @property
    def floor_bytes(self) -> float:
        """The minimum bytes of a prompt; see :func:`prompt_kernel_bytes`. The initial state is read, too."""
        initial = sum(prod(shape) for shape in self.state) * self.dtype.itemsize
        return initial + prompt_kernel_bytes(
            self.layer_type, self.batch, self.tokens, self.heads, self.head_dim, self.dtype
        )

    @property
    def flops(self) -> float:
        """The operations of a prompt; see :func:`inner_flops`."""
        return self.batch * self.heads * inner_flops(self.layer_type, self.tokens, self.head_dim)

    @property
    def calls(self) -> tuple[int, ...]:
        """The prompt at once."""
        return (self.tokens,)

    def vectors(self, tokens: int) -> tuple[int, ...]:
        """Shape of q, k and v of a call: [B, L, D]."""
        return (self.batch, tokens, self.heads * self.head_dim)

    def rates(self, tokens: int) -> tuple[int, ...]:
        """Shape of the learning rates of a call: [B, H, L]."""
        return (self.batch, self.heads, tokens)


@dataclass(frozen=True)
class StepInputs:
    """One copy of all inputs of the calls of a step. They update ``state`` and ``kept``.

    tokens: q, k, v and lr (float32) of each call. starts: the position of each call's first token in its mini-batch.
    """

    tokens: list[tuple[Tensor, ...]]  # q, k, v [B, H F] and lr [B, H]; of a prompt [B, L, H F] and [B, H, L]
    starts: tuple[int, ...]
    eta: Tensor  # [M] float32
    norm: tuple[Tensor, Tensor]  # weight and bias [H, F]
    state: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]

    @property
    def device(self) -> torch.device:
        return self.eta.device

    @property
    def calls(self) -> int:
        return len(self.tokens)

    def read_only(self, call: int, positions: Sequence[Tensor]) -> Mapping[str, Tensor]:
        names = ("q", "k", "v", "lr", "eta", "position", "norm_weight", "norm_bias")
        return dict(zip(names, self.arguments(call, positions), strict=False))

    def arguments(self, call: int, positions: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The arguments of the call ``call``. ``positions``: those of :func:`make_positions`."""
        position = positions[self.starts[call]]
        return (*self.tokens[call], self.eta, position, *self.norm, *self.state, *self.kept)

    def double(self) -> "StepInputs":
        """A copy of the same values in float64."""

        def wide(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(tensor.double() for tensor in tensors)

        norm_weight, norm_bias = wide(self.norm)
        return replace(
            self,
            tokens=[wide(token) for token in self.tokens],
            eta=self.eta.double(),
            norm=(norm_weight, norm_bias),
            state=wide(self.state),
            kept=wide(self.kept),
        )


def make_inputs(shape: StepShape, source: Source, calls: Sequence[int] | None = None) -> StepInputs:
    """Inputs of ``calls``, the tokens of each call; by default those that are timed.

    The updates of a mini-batch converge, and those of a long prompt shrink as the state grows, so both can be repeated
    thousands of times.
    """
    heads, dtype, lengths = (shape.heads, shape.head_dim), shape.dtype, calls or shape.calls

    def call(tokens: int) -> tuple[Tensor, ...]:
        q, k, v = (source.normal(shape.vectors(tokens), dtype) for _ in range(3))
        gate = source.normal(shape.rates(tokens), torch.float32)
        return q, k, v, gate.sigmoid_().mul_(shape.inner_layer.base_lr / shape.head_dim)

    learned = source.normal((MINI_BATCH,), torch.float32, std=0.02)
    scale = 1 / torch.arange(1, MINI_BATCH + 1, device=learned.device)
    return StepInputs(
        tokens=[call(length) for length in lengths],
        starts=tuple(start % MINI_BATCH for start in accumulate(lengths[:-1], initial=0)),
        eta=(scale + learned).clamp_min_(0),
        norm=(source.normal(heads, dtype, std=0.3, mean=1.0), source.normal(heads, dtype, std=0.3)),
        state=tuple(source.normal(part, dtype, std=STATE_STD) for part in shape.state),
        kept=tuple(source.poisoned(part, dtype) for part in shape.kept),
    )

"""The inputs of a decode step or a prompt: random tokens, and a state of the size of a layer's state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ttt_mlflow.kernels.inner_layers import (
    MINI_BATCH,
    InnerLayer,
    decode_kernel_bytes,
    inner_flops,
    inner_layer,
    prompt_kernel_bytes,
)

STATE_STD = 0.02  # the initialization of the published models


@dataclass(frozen=True)
class StepShape:
    """The decode step of one layer: inner net, form and sizes."""

    mode: ClassVar[str] = "decode"

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

    tokens: int

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


class Source(Protocol):
    """Allocates and fills the memory of the inputs."""

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, std: float = 1.0, mean: float = 0.0) -> Tensor: ...

    def poisoned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor: ...


class RandomSource:
    """New tensors on ``device``: normal random numbers from ``seed``, and NaN where a step must not read."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device).normal_(mean, std, generator=self._generator)

    def poisoned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.full(shape, torch.nan, dtype=dtype, device=self.device)


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


def make_positions(device: torch.device) -> list[Tensor]:
    """The positions of a mini-batch, each [1] int32 on the device and 16-byte aligned, as kernels require."""
    rows = torch.arange(MINI_BATCH, dtype=torch.int32, device=device)[:, None].repeat(1, 4)
    return [row[:1] for row in rows]

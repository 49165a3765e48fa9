"""The inputs of a decode step: random tokens, and a state of the size of a layer's state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from ttt_mlflow.kernels.inner_layers import MINI_BATCH, InnerLayer, decode_kernel_bytes, inner_layer

STATE_STD = 0.02  # the initialization of the published models


@dataclass(frozen=True)
class StepShape:
    """The decode step of one layer: inner net, form and sizes."""

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
    def copy_bytes(self) -> int:
        """Bytes of one :class:`StepInputs` with a mini-batch of tokens."""
        token = self.batch * self.heads * (3 * self.head_dim * self.dtype.itemsize + 4)
        elements = sum(prod(shape) for shape in [*self.state, *self.kept])
        return MINI_BATCH * token + elements * self.dtype.itemsize


@dataclass(frozen=True)
class StepInputs:
    """One copy of all inputs of a step. The steps update ``state`` and ``kept``."""

    tokens: list[tuple[Tensor, ...]]  # q, k, v [B, H F] and lr [B, H] float32, one tuple per position
    eta: Tensor  # [M] float32
    norm: tuple[Tensor, Tensor]  # weight and bias [H, F]
    state: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]

    def arguments(self, token: int, position: Tensor) -> tuple[Tensor, ...]:
        """The arguments of the step for the token ``token`` at ``position`` [1] int32."""
        return (*self.tokens[token], self.eta, position, *self.norm, *self.state, *self.kept)

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


def make_inputs(shape: StepShape, source: Source, tokens: int = MINI_BATCH) -> StepInputs:
    """Inputs of ``tokens`` tokens. Their updates converge, so a mini-batch can be repeated thousands of times."""
    row, heads = (shape.batch, shape.heads * shape.head_dim), (shape.heads, shape.head_dim)
    dtype = shape.dtype

    def token() -> tuple[Tensor, ...]:
        q, k, v = (source.normal(row, dtype) for _ in range(3))
        gate = source.normal((shape.batch, shape.heads), torch.float32)
        return q, k, v, gate.sigmoid_().mul_(shape.inner_layer.base_lr / shape.head_dim)

    learned = source.normal((MINI_BATCH,), torch.float32, std=0.02)
    scale = 1 / torch.arange(1, MINI_BATCH + 1, device=learned.device)
    return StepInputs(
        tokens=[token() for _ in range(tokens)],
        eta=(scale + learned).clamp_min_(0),
        norm=(source.normal(heads, dtype, std=0.3, mean=1.0), source.normal(heads, dtype, std=0.3)),
        state=tuple(source.normal(part, dtype, std=STATE_STD) for part in shape.state),
        kept=tuple(source.poisoned(part, dtype) for part in shape.kept),
    )


def make_positions(device: torch.device) -> list[Tensor]:
    """The positions of a mini-batch, each [1] int32 on the device and 16-byte aligned, as kernels require."""
    rows = torch.arange(MINI_BATCH, dtype=torch.int32, device=device)[:, None].repeat(1, 4)
    return [row[:1] for row in rows]

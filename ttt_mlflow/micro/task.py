"""What a kernel is timed and checked with: a task, which is an operation of a layer with one batch, and its inputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ttt_mlflow.kernels.inner_layers import MINI_BATCH


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of the layer and of the head, and the tokens of a prompt."""

    heads: int
    head_dim: int
    intermediate: int
    vocab: int
    promptlen: int
    dtype: torch.dtype

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


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


class Inputs(Protocol):
    """One copy of all that the calls of a task read and update."""

    @property
    def device(self) -> torch.device: ...

    @property
    def calls(self) -> int: ...

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What the calls update and later calls read."""

    def arguments(self, call: int, positions: Sequence[Tensor]) -> tuple[Any, ...]:
        """The arguments of the call ``call``. ``positions``: those of :func:`make_positions`."""

    def read_only(self, call: int, positions: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Of these arguments, by name, those that the call must not change."""


class Task(Protocol):
    """An operation with one batch: its inputs, bytes, operations and correct result."""

    @property
    def mode(self) -> str: ...

    @property
    def batch(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def promptlen(self) -> int | None:
        """Tokens of each sequence's prompt; None for a decode step."""

    @property
    def wording(self) -> tuple[str, str, str]:
        """For messages: what a call is, what it returns, and what it may change."""

    # Its size

    @property
    def floor_bytes(self) -> float:
        """The minimum bytes of a call, whatever a kernel moves."""

    @property
    def flops(self) -> float:
        """The operations of a call; 0 if it multiplies no matrices."""

    @property
    def copy_bytes(self) -> int:
        """Bytes of one copy of the inputs of the timed calls."""

    @property
    def most_copies(self) -> int:
        """Copies that are timed at most: the launches of a graph cost time and memory."""

    # Its inputs and its result

    @property
    def calls(self) -> tuple[int, ...]:
        """The tokens of each call that is timed."""

    @property
    def checked_calls(self) -> tuple[int, ...]:
        """The tokens of each call of the check."""

    def inputs(self, source: Source, calls: Sequence[int] | None = None) -> Inputs:
        """New inputs of ``calls``, the tokens of each; by default those that are timed."""

    @property
    def results(self) -> Mapping[str, torch.dtype]:
        """The tensors that a call returns, by name, with their dtypes."""

    @property
    def twin(self) -> Callable[..., Any]:
        """The same arithmetic in plain PyTorch, with the arguments of :meth:`exact`."""

    def exact(self, inputs: Any) -> Inputs:
        """A copy of ``inputs`` in float64."""

    def changes_state(self, inputs: Any, call: int) -> bool:
        """Whether the state is to be compared after the call ``call`` of the check."""


def make_positions(device: torch.device) -> list[Tensor]:
    """The positions of a mini-batch, each [1] int32 on the device and 16-byte aligned, as kernels require."""
    rows = torch.arange(MINI_BATCH, dtype=torch.int32, device=device)[:, None].repeat(1, 4)
    return [row[:1] for row in rows]

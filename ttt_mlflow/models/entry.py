"""What a model must be able to do, and how it is registered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ttt_mlflow.workload import Stage, Workload


@runtime_checkable
class DecodeModel(Protocol):
    """A constant-state language model that decodes token by token.

    A model may also offer ``prefill(tokens [B, P], state) -> logits [B, V]``, for prompts of any length or of multiples
    of its ``prefill_multiple`` (what is left of a prompt, or all of it, is fed token by token), ``compile_step()``
    (otherwise ``use_compile`` compiles ``step`` whole), ``parameter_count() -> int`` and
    ``memory_parts(state) -> dict[str, list[Tensor]]``, the tensors that stay from step to step by what they are.
    Inside ``step``, ``in_layer`` and ``in_part`` of :mod:`ttt_mlflow.workload` name what the profilers see.
    A model that brings its own generation offers ``decoder(batch, max_length, cuda_graph)`` instead of state and
    step; it returns a :class:`ttt_mlflow.models.entry.Decoder`.
    """

    vocab_size: int

    def new_state(self, batch: int) -> Any:
        """State of ``batch`` sequences: any object that holds its tensors."""

    def reset_state(self, state: Any) -> None:
        """Put ``state`` back to the start of a sequence, in place: a captured CUDA graph must go on using it."""

    def step(self, tokens: Tensor, state: Any) -> Tensor:
        """Feed one token a sequence: tokens [B] int64 to logits [B, V]; ``state`` is updated in place."""


@dataclass(frozen=True)
class ModelRequest:
    """What a factory is asked to build."""

    name: str
    inner_net: str | None
    dtype: torch.dtype
    device: torch.device
    seed: int
    checkpoint: str | None


@dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    ``inner_nets`` is empty for a model that has none; those that end in ``_triton`` need a GPU (or Triton's
    interpreter). ``missing()`` says in one line what must be installed first, or None. ``check(request)`` raises
    BadInput for what the factory would refuse, without building anything. ``own_generation`` marks a model whose own
    code generates, graph included, so that ``use_compile`` does not apply. ``prefill_multiple`` is the model's, where
    it has one: what a prompt has beyond it goes through the step, compiled and captured in prefill mode as well.
    ``work(request, workload)`` counts what has to be moved and computed; without it a run has no roofline. With mode
    decode it is of one step (the mean of those of a pass), with mode prefill of the whole prompt.

    ``period``: decode steps after which the pattern of costs repeats, 1 where all steps cost the same. Drift within a
    pass is tested over whole periods, and warm-up passes and profiles have whole ones. ``cost_grows`` marks a model
    whose steps cost more with the position, as with a KV cache: its passes are not tested for drift within them.
    ValueError for a period below 1.
    """

    name: str
    factory: Callable[[ModelRequest], DecodeModel]
    description: str
    inner_nets: tuple[str, ...] = ()
    needs_cuda: bool = False
    takes_checkpoint: bool = False
    own_generation: bool = False
    prefill_multiple: int | None = None
    missing: Callable[[], str | None] = lambda: None
    check: Callable[[ModelRequest], None] = lambda request: None
    work: Callable[[ModelRequest, Workload], list[Stage]] | None = None
    period: int = 1
    cost_grows: bool = False

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"model {self.name!r}: period={self.period}: decode steps, 1 or more")


class Decoder(Protocol):
    """What is measured. ``prefill`` starts a batch of sequences, ``step`` goes on; both sample greedily.

    A decoder may also offer, for the profilers, ``eagerly()``, a context in which ``prefill`` and ``step`` do the same
    without a graph and without what was compiled, and ``memory_parts() -> dict[str, list[Tensor]]``, the tensors that
    stay from step to step by what they are (weights, state, …).
    """

    def prefill(self, prompt: Tensor) -> Tensor:
        """Start afresh with prompt [B, P] int64; returns the first token [B]."""

    def step(self) -> Tensor:
        """Feed the last token; returns the next one [B], in a tensor that the next step overwrites."""

    def close(self) -> None:
        """Give memory back that this decoder holds."""

"""Which models there are, and what a model must be able to do.

A model is registered with a name and a factory, here or in another installed package under the entry point group
``ttt_mlflow.models`` (an entry point names a :class:`ModelEntry`, or a function that returns several). The runner
knows models only through this page.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ttt_mlflow.errors import BadInput
from ttt_mlflow.measure.roofline import Stage

ENTRY_POINT_GROUP = "ttt_mlflow.models"


@runtime_checkable
class DecodeModel(Protocol):
    """A constant-state language model that decodes token by token.

    A model may also offer ``prefill(tokens [B, P], state) -> logits [B, V]``, for prompts of any length or of multiples
    of its ``prefill_multiple`` (what is left of a prompt, or all of it, is fed token by token), ``compile_step()``
    (otherwise ``use_compile`` compiles ``step`` whole), ``parameter_count() -> int`` and
    ``memory_parts(state) -> dict[str, list[Tensor]]``, the tensors that stay from step to step by what they are.
    Inside ``step``, ``in_layer`` and ``in_part`` of :mod:`ttt_mlflow.ranges` name what the profilers see.
    A model that brings its own generation offers ``decoder(batch, max_length, cuda_graph)`` instead of state and
    step; it returns a :class:`ttt_mlflow.decode.generate.Decoder`.
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
class Workload:
    """What is timed: a decode step of ``batch`` sequences, or with ``mode`` prefill a prompt of ``tokens`` each."""

    mode: str
    batch: int
    tokens: int


@dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    ``inner_nets`` is empty for a model that has none; those that end in ``_triton`` need a GPU (or Triton's
    interpreter). ``missing()`` says in one line what must be installed first, or None. ``check(request)`` raises
    BadInput for what the factory would refuse, without building anything. ``own_generation`` marks a model whose own
    code generates, graph included, so that ``use_compile`` does not apply. ``prefill_multiple`` is the model's, where
    it has one: what a prompt has beyond it goes through the step, compiled and captured in prefill mode as well.
    ``work(request, workload)`` counts what has to be moved and computed; without it a run has no roofline.
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


_registered: dict[str, ModelEntry] = {}


def register_model(entry: ModelEntry) -> ModelEntry:
    """Make a model known by its name; a second registration of a name is an error."""
    if entry.name in _registered:
        raise ValueError(f"model {entry.name!r} is registered already")
    _registered[entry.name] = entry
    return entry


@cache
def _load_all() -> None:
    from ttt_mlflow.models import mamba
    from ttt_mlflow.models.ttt import sizes

    installed = [entry for point in entry_points(group=ENTRY_POINT_GROUP) for entry in _entries_of(point)]
    for entry in [*sizes.entries(), *mamba.entries(), *installed]:
        register_model(entry)


def _entries_of(point: EntryPoint) -> list[ModelEntry]:
    """What another installed package registers; BadInput names the package that cannot be loaded."""
    try:
        found = point.load()
        found = found() if callable(found) and not isinstance(found, ModelEntry) else found
    except Exception as error:
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        raise BadInput(
            f"{package}: its models ({ENTRY_POINT_GROUP}: {point.name} = {point.value}) cannot be loaded "
            f"({type(error).__name__}: {error}); repair or uninstall it"
        ) from error
    return list(found) if isinstance(found, Iterable) else [found]


def models() -> dict[str, ModelEntry]:
    """All registered models by name, those of installed packages included."""
    _load_all()
    return dict(_registered)


def find_model(name: str) -> ModelEntry:
    """The entry of ``name``; BadInput lists the names there are."""
    known = models()
    if name not in known:
        raise BadInput(f"model_name={name}: no such model; there are {', '.join(known)}")
    return known[name]

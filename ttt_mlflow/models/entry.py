"""The interface of a model, and its registration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ttt_mlflow.models.allocations import Allocations
from ttt_mlflow.workload import Stage, Workload


@runtime_checkable
class DecodeModel(Protocol):
    """A language model that decodes token by token.

    A state that grows with the position, as a KV cache does, has a largest size. A model with one offers
    ``new_cache(batch, max_length) -> state`` instead of ``new_state``: the state of ``batch`` sequences of up to
    ``max_length`` tokens each, allocated once. :class:`ttt_mlflow.models.decoder.ModelDecoder` refuses to feed more.

    A model that chooses among implementations by measurement offers ``choose(state)``, which is called once, before the
    step is compiled or captured; ``state`` is empty and may be written to. Its attribute ``attn_impl`` (a text) is
    recorded as the parameter of that name.

    A model may also offer ``prefill(tokens [B, P], state) -> logits [B, V]``, for prompts of any length or of multiples
    of its ``prefill_multiple`` (the rest of a prompt, or all of it, is fed token by token), ``compile_step()``
    (otherwise, ``use_compile`` compiles ``step`` as a whole), ``parameter_count() -> int`` and
    ``memory_parts(state) -> dict[str, list[Tensor]]``, the tensors that persist from step to step, by their kind.
    ``greedy_step(tokens, state)`` feeds tokens [B] and replaces each by the next one, that of the largest logit, for a
    model that finds it faster than an arg-max after ``step``.
    A model that is no ``torch.nn.Module`` may offer ``state_dict`` and ``load_state_dict``, and one that derives values
    from its weights ``weights_changed()``; :mod:`ttt_mlflow.models.reference` copies weights with them.
    Inside ``step``, ``in_layer`` and ``in_part`` of :mod:`ttt_mlflow.workload` provide the names for profilers.
    A model with its own generation code offers ``decoder(batch, max_length, cuda_graph)`` instead of state and step. It
    returns a :class:`ttt_mlflow.models.entry.Decoder`.
    """

    vocab_size: int

    def new_state(self, batch: int) -> Any:
        """The state of ``batch`` sequences: any object that holds its tensors."""

    def reset_state(self, state: Any) -> None:
        """Reset ``state`` to the start of a sequence, in place, because a captured CUDA graph continues to use it."""

    def step(self, tokens: Tensor, state: Any) -> Tensor:
        """Feed one token per sequence: tokens [B] int64 to logits [B, V]. ``state`` is updated in place."""


@dataclass(frozen=True)
class ModelRequest:
    """What a factory is asked to build.

    Two implementations of one model differ in ``inner_net``, ``attn_impl`` or ``decode_path``.
    """

    name: str
    inner_net: str | None
    dtype: torch.dtype
    device: torch.device
    seed: int
    checkpoint: str | None
    attn_impl: str | None = None  # as it was asked for; None: the model chooses
    workload: Workload | None = None  # what the model will be timed with, if that is known
    decode_path: str | None = None  # None for a model with one alone


@dataclass(frozen=True)
class Execution:
    """How the decode step is run."""

    compiled: bool
    cuda_graph: bool


@dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    ``inner_nets`` is empty for a model without inner nets. Names that end in ``_triton`` need a GPU (or Triton's
    interpreter). ``attn_impls`` has the attentions of a model that has some, with the same rule for ``_triton``. A
    model that uses two, for a prompt and for a decode step, takes PROMPT+STEP too. ``decode_paths``: the ways in which
    a decode step can run, the default first; empty for a model with one alone. ``missing()`` returns one line about
    what must be installed first, or None. ``check(request)`` raises BadInput for what the factory would refuse, without
    building anything. ``own_generation`` marks a model with its own generation code, including the graph;
    ``use_compile`` does not apply to it, nor to a step of which ``compiles(request)`` is false. ``usual_path(request)``
    chooses among ``decode_paths`` if none is asked for; None: the first. ``prefill_multiple`` is
    that of the model, if it has one. The rest of a prompt goes through the step, which is compiled and captured in
    prefill mode too. ``work(request, workload)`` counts the bytes and operations; without it, a run has no roofline. In
    decode mode, it counts one step (the mean of the steps of a pass); in prefill mode, it counts the whole prompt.
    ``kept_bytes(request, workload)`` counts the bytes of the weights and the state. On a CPU, a run that is certain not
    to fit is ended before anything is allocated.
    ``allocations(request, workload, execution)`` says what a run allocates on a GPU. Without it, nothing is known of a
    configuration's memory before it is measured, and a sweep tries all of them.

    ``plain(request)`` builds the same model from plain PyTorch operations, in any dtype and with any weights; those of
    the measured model are then copied into it. It is the reference of ``profile=accuracy``. Without it, the reference
    is the factory's own model in float32, with the PyTorch counterpart of a Triton inner net.

    ``period``: decode steps after which the pattern of costs repeats; 1 if all steps cost the same. Drift within a pass
    is tested over whole periods, and warm-up passes and profiles have whole periods. ``cost_grows`` marks a model whose
    steps cost more with the position, as with a KV cache. Its passes are not tested for drift within them.
    Raises ValueError for a name that cannot be shown, and for a period or a multiple below 1.
    """

    name: str
    factory: Callable[[ModelRequest], DecodeModel]
    description: str
    inner_nets: tuple[str, ...] = ()
    attn_impls: tuple[str, ...] = ()
    decode_paths: tuple[str, ...] = ()
    needs_cuda: bool = False
    takes_checkpoint: bool = False
    own_generation: bool = False
    prefill_multiple: int | None = None
    missing: Callable[[], str | None] = lambda: None
    usual_path: Callable[[ModelRequest], str | None] = lambda request: None
    check: Callable[[ModelRequest], None] = lambda request: None
    compiles: Callable[[ModelRequest], bool] = lambda request: True
    work: Callable[[ModelRequest, Workload], list[Stage]] | None = None
    kept_bytes: Callable[[ModelRequest, Workload], int] | None = None
    allocations: Callable[[ModelRequest, Workload, Execution], Allocations] | None = None
    plain: Callable[[ModelRequest], DecodeModel] | None = None
    period: int = 1
    cost_grows: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isprintable() and self.name.strip()):
            raise ValueError(f"model {self.name!r}: a name is a text in one line")
        if self.period < 1:
            raise ValueError(f"model {self.name!r}: period={self.period}: not allowed; it takes 1 or more decode steps")
        if self.prefill_multiple is not None and self.prefill_multiple < 1:
            raise ValueError(f"model {self.name!r}: prefill_multiple={self.prefill_multiple}: not allowed; 1 or more")


class Decoder(Protocol):
    """The interface that is measured. ``prefill`` starts a batch of sequences, ``step`` continues it, both greedily.

    A decoder may also offer methods for profiling passes. ``start(prompt) -> logits`` [B, V] and
    ``feed(tokens [B]) -> logits`` do what ``prefill`` and ``step`` do, with given tokens and without a graph.
    ``eagerly()`` is a context in which ``prefill`` and ``step`` do
    the same without a graph and without compiled code. ``memory_parts() -> dict[str, list[Tensor]]`` returns the
    tensors that persist from step to step, by their kind (weights, state, …).
    """

    def prefill(self, prompt: Tensor) -> Tensor:
        """Start again with prompt [B, P] int64. Returns the first token [B]."""

    def step(self) -> Tensor:
        """Feed the last token. Returns the next one [B], in a tensor that the next step overwrites."""

    def close(self) -> None:
        """Release the memory that this decoder holds."""

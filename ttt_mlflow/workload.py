"""Names for what a profiler sees: the layers of a model and the parts of a layer.

Off unless a profiling pass switches them on, and then for eager code alone: while torch.compile traces, and while a
CUDA graph is captured or replayed, nothing is named (:mod:`ttt_mlflow.profilers.attribution` says how kernels of such
steps get their parts). Switched off, a range is one shared object that does nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.compiler import is_compiling

PROJECTIONS = "projections"
FEED_FORWARD = "feed-forward"
CONVOLUTION = "convolution state"
INNER = "inner net state"
HEAD = "embeddings and head"
SAMPLING = "sampling"
PARTS = (PROJECTIONS, FEED_FORWARD, CONVOLUTION, INNER, HEAD, SAMPLING)
TOKEN_BYTES = 8  # a sampled token is an int64


@dataclass(frozen=True)
class Stage:
    """Work that needs the result of the stage before it, done ``count`` times: once in each layer, for example."""

    part: str  # one of PARTS
    weight_bytes: float  # read once, however large the batch
    state_bytes: float  # all else that must be read or written, of the whole batch
    flops: float
    count: int = 1

    @property
    def bytes(self) -> float:
        """Of all ``count`` times together."""
        return self.count * (self.weight_bytes + self.state_bytes)


@dataclass(frozen=True)
class Workload:
    """What is timed, of ``batch`` sequences.

    With ``mode`` decode a pass is ``genlen`` decode steps after a prompt of ``promptlen`` tokens a sequence; with
    ``mode`` prefill it is the prompt.
    """

    mode: str
    batch: int
    promptlen: int
    genlen: int

    @property
    def tokens_per_pass(self) -> int:
        """Of all sequences, in one timed pass: those that are decoded, or with ``mode`` prefill those of the prompt."""
        return self.batch * (self.promptlen if self.mode == "prefill" else self.genlen)


# Names for what a profiler sees

Named = Callable[[str], AbstractContextManager[object]]

NOTHING = nullcontext()
LAYER = "layer "  # followed by its number, from 0
STEP = "step "
_named: Named | None = None


def in_part(name: str) -> AbstractContextManager[object]:
    """A part of the model, under one of the names of :data:`ttt_mlflow.workload.PARTS`."""
    # the first condition is a constant for the compiler, so that it does not depend on the second
    if is_compiling() or _named is None:
        return NOTHING
    return _named(name)


def in_layer(index: int) -> AbstractContextManager[object]:
    """One layer of the model."""
    return NOTHING if _named is None else _named(f"{LAYER}{index}")


def recording() -> bool:
    """Whether ranges are switched on."""
    return _named is not None


@contextmanager
def named_by(named: Named) -> Iterator[None]:
    """Switch the ranges on, ``named`` making each one, until the block ends."""
    global _named
    before, _named = _named, named
    try:
        yield
    finally:
        _named = before


@contextmanager
def nvtx(name: str) -> Iterator[None]:
    """A range in the timeline of Nsight Systems."""
    torch.cuda.nvtx.range_push(name)
    try:
        yield
    finally:
        torch.cuda.nvtx.range_pop()

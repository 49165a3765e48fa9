"""What is timed: the workload, its stages, and the names of layers and parts that a profiler sees.

Named ranges are off unless a profiling pass switches them on, and they apply to eager code only. Nothing is named while
torch.compile traces, or while a CUDA graph is captured or replayed; :mod:`ttt_mlflow.profilers.attribution` explains
how kernels of such steps get their parts. A range that is off is one shared object that does nothing.
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
    """Work that needs the result of the stage before it. It runs ``count`` times, for example once per layer."""

    part: str  # one of PARTS
    weight_bytes: float  # read once, regardless of the batch
    state_bytes: float  # all other bytes that must be read or written, for the whole batch
    flops: float
    count: int = 1

    @property
    def bytes(self) -> float:
        """The bytes of all ``count`` executions."""
        return self.count * (self.weight_bytes + self.state_bytes)


@dataclass(frozen=True)
class Workload:
    """What is timed, for ``batch`` sequences.

    In decode mode, a pass is ``genlen`` decode steps after a prompt of ``promptlen`` tokens per sequence. In prefill
    mode, a pass is the prompt.
    """

    mode: str
    batch: int
    promptlen: int
    genlen: int

    @property
    def tokens_per_pass(self) -> int:
        """Tokens of all sequences in one timed pass: the decoded tokens, or in prefill mode the prompt's tokens."""
        return self.batch * (self.promptlen if self.mode == "prefill" else self.genlen)


# Names for what a profiler sees

Named = Callable[[str], AbstractContextManager[object]]

NOTHING = nullcontext()
LAYER = "layer "  # followed by its number, from 0
STEP = "step "
_named: Named | None = None


def in_part(name: str) -> AbstractContextManager[object]:
    """A range for a part of the model; ``name`` is one of :data:`PARTS`."""
    # the compiler sees the first condition as a constant, so the traced code does not depend on the second
    if is_compiling() or _named is None:
        return NOTHING
    return _named(name)


def in_layer(index: int) -> AbstractContextManager[object]:
    """A range for one layer of the model."""
    return NOTHING if _named is None else _named(f"{LAYER}{index}")


def recording() -> bool:
    """Whether ranges are on."""
    return _named is not None


@contextmanager
def named_by(named: Named) -> Iterator[None]:
    """Switch the ranges on until the block ends. ``named`` makes each range."""
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

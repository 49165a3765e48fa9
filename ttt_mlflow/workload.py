"""What is timed: the workload, its stages, and the names of layers and parts that a profiler sees.

Named ranges are off unless a profiling pass switches them on, and they apply to eager code only. Nothing is named while
torch.compile traces, or while a CUDA graph is captured or replayed; :mod:`ttt_mlflow.profilers.attribution` explains
how kernels of such steps get their parts. A range that is off is one shared object that does nothing.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.compiler import is_compiling

PROJECTIONS = "projections"
FEED_FORWARD = "feed-forward"
CONVOLUTION = "convolution state"
INNER = "inner net state"
ATTENTION = "attention and cache"
HEAD = "embeddings and head"
SAMPLING = "sampling"
PARTS = (PROJECTIONS, FEED_FORWARD, CONVOLUTION, INNER, ATTENTION, HEAD, SAMPLING)
TOKEN_BYTES = 8  # a sampled token is an int64
PROFILED_STEPS = 16  # steps of a profiling pass, before rounding up to whole periods
EAGER_STEPS = 8  # maximum number of eager steps in addition to the profiled steps


def whole_periods(steps: int, period: int) -> int:
    """``steps`` rounded up to whole periods of the model (:attr:`ttt_mlflow.models.ModelEntry.period`)."""
    return period * math.ceil(steps / period)


def profiled_steps(period: int) -> int:
    """Decode steps of a profiling pass. Whole periods, so that each position of a period occurs equally often."""
    return whole_periods(PROFILED_STEPS, period)


@dataclass(frozen=True)
class Stage:
    """Work that needs the result of the stage before it. It runs ``count`` times, for example once per layer.

    Of decode steps whose work grows with the position, it is the mean over the steps of a pass.
    Raises ValueError for a number that is not finite or is below 0.
    """

    part: str  # one of PARTS
    weight_bytes: float  # read once, regardless of the batch
    state_bytes: float  # all other bytes that must be read or written, for the whole batch
    flops: float
    count: int = 1

    def __post_init__(self) -> None:
        for name in ("weight_bytes", "state_bytes", "flops", "count"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"stage {self.part!r}: {name}={value}: not a finite number from 0")

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

    @property
    def decode_steps(self) -> int:
        """Decode steps of a timed pass."""
        return 0 if self.mode == "prefill" else self.genlen

    @property
    def mean_position(self) -> float:
        """The mean over the decode steps of a timed pass: how many tokens of a sequence were fed before a step."""
        return self.promptlen + max(self.decode_steps - 1, 0) / 2

    def max_length(self, period: int = 1) -> int:
        """Tokens that are fed of a sequence at most: the prompt, a pass, and the steps that profiles may add to it."""
        return self.promptlen + self.decode_steps + profiled_steps(period) + EAGER_STEPS


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

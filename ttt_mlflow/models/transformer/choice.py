"""Chooses the transformer's attentions by measurement: on this GPU, for the shapes of the workload.

The attention of a prompt is timed for the sequences that go through a layer at once. The attention of a decode step is
timed at the mean position of a pass, as a CUDA graph of all layers, so that no layer's cache stays in the level-2
cache. If the kernels of a step overlap, the graph is of whole steps: how long one takes then depends on when its
neighbors start and on which multiprocessors. What does not take the shape is left out; the log says why.
"""

import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from triton.errors import TritonError

from ttt_mlflow.errors import RunFailed, one_line
from ttt_mlflow.kernels.attention.launch import Launch, default_launch, other_rows, other_splits, other_starts
from ttt_mlflow.models.graph_capture import captured, warm_stream
from ttt_mlflow.models.transformer import attention
from ttt_mlflow.models.transformer.attention import MATH, SPLIT_KV, Asked, Choice, Functions
from ttt_mlflow.models.transformer.config import PREFILL_TOKENS, TransformerConfig
from ttt_mlflow.models.transformer.state import TransformerState
from ttt_mlflow.models.ttt.whole_step import WholeStep
from ttt_mlflow.workload import Workload

WARM_UPS, ROUNDS = 1, 5
SHORTEST_MS = 1.0  # a round of a prompt's attention has as many calls as fill this
Timed = Callable[[], float]  # returns milliseconds
log = logging.getLogger(__name__)


class Chooser(Protocol):
    """The model, as far as its attentions depend on it."""

    config: TransformerConfig
    dtype: torch.dtype
    device: torch.device
    functions: Functions
    asked: Asked
    choice: Choice


@dataclass(frozen=True)
class Timing:
    name: str
    ms: float


def choose(model: Chooser, state: TransformerState, workload: Workload) -> None:
    """Set ``model.choice`` to what is fastest, or to what was asked for. ``state`` is empty, and is written to.

    Raises RunFailed if an attention that was asked for does not run, or none does.
    """
    if workload.promptlen > 1:
        model.choice.prompt = _prompt(model, state, workload)
    if workload.mode == "decode" or workload.promptlen == 1:
        model.choice.step, launch = _step(model, state, workload)
        model.choice.launch = launch.options if launch else {}
    state.position.zero_()


def fastest(what: str, timed: Mapping[str, Timed], asked: str | None) -> Timing:
    """The fastest of ``timed``. What raises is left out. Raises RunFailed if nothing is left."""
    found, faults = [], []
    for name, time in timed.items():
        try:
            found.append(Timing(name, time()))
        except (RuntimeError, ValueError, TritonError) as error:  # also too little memory, or shared memory
            faults.append(f"{name}: {one_line(error)}")
            continue
        log.info("%s: %s takes %.4f ms", what, name, found[-1].ms)
    for fault in faults:
        log.info("%s: not available: %s", what, fault)
    if not found:
        question = f"attn_impl={asked}" if asked else "attn_impl"
        raise RunFailed(f"{question}: {what} does not run here ({'; '.join(faults)}); ask for another")
    return min(found, key=lambda one: one.ms)


def _prompt(model: Chooser, state: TransformerState, workload: Workload) -> str:
    config, length = model.config, workload.promptlen
    count = min(workload.batch, max(PREFILL_TOKENS // length, 1))
    q = torch.empty(count, length, config.num_heads, config.head_dim, dtype=model.dtype, device=model.device).normal_()
    kept = state.layers[0]
    k, v = (one[:count, :, :length].normal_() for one in (kept.k, kept.v))

    def timed(name: str) -> float:
        return _eager_ms(lambda: attention.prompt_attention(q, k, v, name), model.device)

    names = [model.asked.prompt] if model.asked.prompt else [name for name in attention.PROMPT if name != MATH]
    candidates: dict[str, Timed] = {name: partial(timed, name) for name in names}
    what = "the attention of a prompt"
    try:
        return fastest(what, candidates, model.asked.prompt).name
    except RunFailed:
        if model.asked.prompt:
            raise
        return fastest(
            what, {MATH: partial(timed, MATH)}, None
        ).name  # it keeps all scores: only where nothing else runs


def _step(model: Chooser, state: TransformerState, workload: Workload) -> tuple[str, Launch | None]:
    bench = _Bench(model, state, workload)
    names = [model.asked.step] if model.asked.step else [name for name in attention.STEP if name != MATH]
    candidates: dict[str, Timed] = {}
    launch = None
    if SPLIT_KV in names:
        launch = bench.fastest_launch()
        candidates[SPLIT_KV] = partial(bench.split_kv_ms, launch)
    candidates |= {name: partial(bench.other_ms, name) for name in names if name != SPLIT_KV}
    best = fastest(bench.what, candidates, model.asked.step).name
    return best, launch if best == SPLIT_KV else None


class _Bench:
    """Times one decode step's attention, of all layers, or the step as a whole."""

    def __init__(self, model: Chooser, state: TransformerState, workload: Workload) -> None:
        self.model, self.state = model, state
        self.position = min(round(workload.mean_position), state.length - 1)
        state.position.fill_(self.position)
        for kept in state.layers:
            for one in (kept.k, kept.v):
                one[:, :, : self.position].normal_()
        config = model.config
        self.qkv = torch.empty(workload.batch, config.projected, dtype=model.dtype, device=model.device).normal_()
        self.tokens = torch.zeros(workload.batch, dtype=torch.int64, device=model.device)
        self.kv_heads = workload.batch * config.num_kv_heads
        self.multiprocessors = multiprocessors_of(model.device)

    @property
    def what(self) -> str:
        """What is timed."""
        return "the attention of a decode step" if self.state.whole_step is None else "a decode step with the attention"

    def fastest_launch(self) -> Launch:
        """First the best block, warps and stages, then the best number of parts, and then the best start."""
        dtype, length = self.model.dtype, self.state.length
        default = default_launch(self.kv_heads, length, self.multiprocessors, dtype)
        launch = self._fastest(other_rows(default, dtype))
        launch = self._fastest(other_splits(launch, self.kv_heads, length, self.multiprocessors))
        return self._fastest(other_starts(launch, default)) if self.state.whole_step else launch

    def _fastest(self, launches: list[Launch]) -> Launch:
        by_name = {str(launch): launch for launch in launches}
        timed: dict[str, Timed] = {name: partial(self.split_kv_ms, launch) for name, launch in by_name.items()}
        return by_name[fastest(SPLIT_KV, timed, self.model.asked.step).name]

    def split_kv_ms(self, launch: Launch) -> float:
        if self.state.whole_step:
            return self._step_ms(self.state.whole_step, SPLIT_KV, launch.options)
        functions, heads = self.model.functions.cache, self.model.config.num_heads

        def one(*tensors: Tensor) -> object:
            return functions.decode_attention(*tensors, heads, **launch.options)

        return self._graph_ms(one)

    def other_ms(self, name: str) -> float:
        if self.state.whole_step:
            return self._step_ms(self.state.whole_step, name, {})
        state, heads = self.state, self.model.config.num_heads
        if name == MATH:
            return self._graph_ms(lambda *tensors: attention.plain_attention(tensors, heads))
        mask = attention.step_mask(state.position, state.length, self.model.dtype)
        functions = self.model.functions.cache
        return self._graph_ms(lambda *tensors: attention.masked_attention(functions, name, tensors, heads, mask))

    def _graph_ms(self, one: Callable[..., object]) -> float:
        """The time of all layers' calls of ``one``, replayed."""
        state = self.state

        def layers() -> None:
            for kept in state.layers:
                one(self.qkv, state.position, state.cos, state.sin, kept.k, kept.v)

        return self._replayed_ms(layers)

    def _step_ms(self, whole_step: WholeStep, name: str, launch: dict[str, int]) -> float:
        """The time of a whole step with this attention, replayed."""
        self.model.choice.step, self.model.choice.launch = name, launch
        self.state.position.fill_(self.position)  # each step adds one
        return self._replayed_ms(lambda: whole_step(self.tokens, self.tokens))

    def _replayed_ms(self, call: Callable[[], object]) -> float:
        device = self.model.device
        with captured(warm_stream(device, call)) as graph:
            call()
        return _median_ms(graph.replay, 1, device)


def multiprocessors_of(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _eager_ms(call: Callable[[], object], device: torch.device) -> float:
    """The time of one call, of rounds that are long enough for the clock."""
    once = _median_ms(call, 1, device)
    return _median_ms(call, max(round(SHORTEST_MS / max(once, 1e-3)), 1), device)


def _median_ms(call: Callable[[], object], calls: int, device: torch.device) -> float:
    for _ in range(WARM_UPS):
        call()
    rounds = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        rounds.append((begin, end))
    torch.cuda.synchronize(device)
    return statistics.median(begin.elapsed_time(end) for begin, end in rounds) / calls

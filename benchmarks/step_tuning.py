"""Which choices make a decode step of few sequences fastest? `python -m benchmarks.step_tuning`

For both inner nets and some batches of ttt-1b, or for transformers with a full cache of 129 tokens, random weights,
fp16: milliseconds a step of kernels that overlap, with each Tuning. A CUDA graph of one step is replayed; the median of
some repetitions in turns, and how far the logits are from the first choice's. What is faster alone is then tried
together. The kernels are compiled first, several at a time. Needs a GPU.
"""

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from multiprocessing import get_context
from statistics import median
from typing import Any, get_args

import click
import torch
import triton

from ttt_mlflow.kernels.launch import has_warpgroups
from ttt_mlflow.kernels.overlapped.launch import OverlappedStep
from ttt_mlflow.kernels.overlapped.shape import LARGEST_BATCH
from ttt_mlflow.kernels.overlapped.tuning import HALF, PAIR, SHARED_BYTES, WIDE, StagedTiling, Tiling, Tuning
from ttt_mlflow.kernels.overlapped.tuning import Model as TunedModel
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.graph_capture import captured, warm_stream
from ttt_mlflow.models.transformer import sizes as transformers
from ttt_mlflow.models.transformer.model import TransformerModel
from ttt_mlflow.models.transformer.state import TransformerState
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import build
from ttt_mlflow.models.ttt.whole_step import WholeStep

NETS = ("mlp_1_dual_triton", "mlp_2_dual_triton")
PEERS, CONTEXT = ("transformer-1b", "transformer-1b-gqa4"), 129
TUNED: dict[str, TunedModel] = dict(zip(NETS + PEERS, get_args(TunedModel), strict=True))
Model = TTTModel | TransformerModel
BATCHES = (1, 2, 8, 16, 32, 64, 128)
STEPS, TURNS = 50, 5
TOGETHER = 4  # changes at most that are tried together
MOST_PROCESSES = 14  # that compile at once
GAIN = 0.003  # of the time, that makes a change faster
# differences from the present choice: of any, of products with weights in registers, and of those in shared memory
CHANGES: list[dict[str, Any]] = [
    {}, {"norm_warps": 8}, {"norm_warps": 16}, {"norm_warps": 32},
]  # fmt: skip
OF_INNER_NETS: list[dict[str, Any]] = [{"held": False}, {"held": True}]
IN_REGISTERS: list[dict[str, Any]] = [
    *(dict.fromkeys(("projection", "gate_up", "head"), one)
      for one in (WIDE, replace(WIDE, tiles=2), PAIR, replace(PAIR, tiles=3))),
    *({"output": one} for one in (WIDE, HALF, replace(PAIR, columns=1024), replace(HALF, columns=512, tiles=1))),
    *({"down": one} for one in (WIDE, HALF, replace(PAIR, columns=1024), Tiling(columns=3072), replace(WIDE, tiles=2))),
]  # fmt: skip
STAGED: list[dict[str, Any]] = [
    *({"flight": flight} for flight in (1, 2, 4, None)),
    *({"step": step, "stages": stages} for step, stages in ((64, 4), (64, 8), (128, 4), (128, 5), (256, 2), (256, 5))),
    {"rows": 64, "warps": 4}, {"rows": 128, "warps": 4}, {"rows": 128, "warps": 8},
]  # fmt: skip
PARTS = (2, 3, 4, 8)
# of a transformer: its projection is smaller than the other products of a normed row, and 6528 columns divide otherwise
OF_TRANSFORMERS: list[dict[str, Any]] = [
    *({"projection": one} for one in (WIDE, replace(WIDE, tiles=2), PAIR, replace(PAIR, tiles=3))),
]  # fmt: skip
DOWN_IN_REGISTERS: list[dict[str, Any]] = [
    *({"down": one} for one in (
        Tiling(columns=2560), Tiling(columns=3584), Tiling(columns=2304, span=256, tiles=8),
        Tiling(columns=3328, span=256, tiles=8),
    )),
]  # fmt: skip
PRODUCTS = ("projection", "output", "gate_up", "down", "head")
HEAD_WARPS = {"mlp_1_dual_triton": (1, 2, 4, 8), "mlp_2_dual_triton": (4,)}


@dataclass(frozen=True)
class Case:
    inner_net: str
    batch: int
    tuning: Tuning

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in vars(self.tuning).items())

    def step(self, model: Model) -> WholeStep:
        if isinstance(model, TransformerModel):
            return model.whole_step(full_cache(model, self.batch), self.tuning)
        return OverlappedStep(model.step_tensors(model.new_state(self.batch)), self.batch, tuning=self.tuning)

    def tokens(self) -> torch.Tensor:
        return torch.arange(self.batch, dtype=torch.int64, device="cuda")


def cases_of(inner_net: str, batch: int, staged: bool) -> list[Case]:
    """staged: the GPU can have the weights of products in shared memory."""
    present = Tuning.of(TUNED[inner_net], batch, staged)
    changes = list(CHANGES)
    if inner_net in NETS:
        changes += [*OF_INNER_NETS, *({"head_warps": warps} for warps in HEAD_WARPS[inner_net])]
    elif batch <= LARGEST_BATCH:
        changes += OF_TRANSFORMERS
    if isinstance(present.projection, StagedTiling):
        for name in PRODUCTS:
            parts = [{"parts": parts} for parts in PARTS] if name in ("output", "down") else []
            others = [replace(getattr(present, name), **changed) for changed in (*STAGED, *parts)]
            changes += [{name: one} for one in others if one.shared_bytes(batch) <= SHARED_BYTES]
    else:
        changes += IN_REGISTERS + (DOWN_IN_REGISTERS if inner_net in PEERS else [])
    choices = dict.fromkeys(replace(present, **changed) for changed in changes)
    return [Case(inner_net, batch, one) for one in choices]


def changes_of(tuning: Tuning, present: Tuning) -> dict[str, Any]:
    """What is not as in ``present``."""
    return {name: value for name, value in vars(tuning).items() if value != getattr(present, name)}


def together(times: dict[Case, float]) -> list[Case]:
    """Of the measured milliseconds of one inner net and batch: the fastest changes of different things, together."""
    first = next(iter(times))
    present = first.tuning
    best: dict[frozenset[str], tuple[float, dict[str, Any]]] = {}
    for case, took in times.items():
        if took < (1 - GAIN) * times[first]:
            changed = changes_of(case.tuning, present)
            kind = frozenset(changed)
            best[kind] = min(best.get(kind, (took, changed)), (took, changed), key=lambda one: one[0])
    fastest = [changed for _, changed in sorted(best.values(), key=lambda one: one[0])[:TOGETHER]]
    found = []
    for count in range(2, len(fastest) + 1):
        for some in combinations(fastest, count):
            merged = {name: value for changed in some for name, value in changed.items()}
            if len(merged) == sum(map(len, some)):  # no two of them choose the same thing
                found.append(replace(first, tuning=replace(present, **merged)))
    return [case for case in dict.fromkeys(found) if case not in times]


@lru_cache(maxsize=1)
def full_cache(model: TransformerModel, batch: int) -> TransformerState:
    """One for all choices, of CONTEXT tokens. At its end nothing is written to it."""
    state = model.new_cache(batch, CONTEXT)
    for kept in state.layers:
        kept.k.normal_()
        kept.v.normal_()
    state.position.fill_(CONTEXT)
    return state


@lru_cache(maxsize=1)
def model_of(inner_net: str) -> Model:
    if inner_net in PEERS:
        return transformers.build(ModelRequest(inner_net, None, torch.float16, torch.device("cuda"), 0, None))
    return build(ModelRequest("ttt-1b", inner_net, torch.float16, torch.device("cuda"), 0, None))


def compile_one(case: Case) -> str | None:
    """Run one step. Returns why it does not run, if so."""
    fed = case.tokens()
    try:
        case.step(model_of(case.inner_net))(fed, fed)
        torch.cuda.synchronize()
    except (RuntimeError, ValueError, triton.runtime.errors.OutOfResources) as error:
        return str(error).splitlines()[0]
    return None


def compiled(pool: ProcessPoolExecutor, cases: Iterable[Case]) -> list[Case]:
    """Compile them, and leave out with a line what does not run."""
    submitted = {case: pool.submit(compile_one, case) for case in cases}
    for case, done in submitted.items():
        if reason := done.result():
            print(f"{case.inner_net} batch {case.batch} {case} does not run: {reason}", flush=True)
    return [case for case, done in submitted.items() if not done.result()]


def replayed(step: WholeStep, fed: torch.Tensor) -> Callable[[], object]:
    """A function that replays a step which feeds itself."""
    stream = warm_stream(fed.device, lambda: step(fed, fed))
    with captured(stream) as graph:
        step(fed, fed)
    return graph.replay


def milliseconds(replay: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(STEPS):
        replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / STEPS


@click.command(help=__doc__, context_settings={"max_content_width": 120})
@click.option("--batches", default=",".join(map(str, BATCHES)), show_default=True, help="Batches, comma-separated.")
@click.option("--inner-nets", default=",".join(NETS), show_default=True, help="Inner nets or transformers.")
@click.option("--compile-only", is_flag=True, help="Compile all kernels, for a later run, and measure nothing.")
def main(batches: str, inner_nets: str, compile_only: bool) -> None:
    for value, name, known in (
        (batches, "--batches", [*map(str, BATCHES)]),
        (inner_nets, "--inner-nets", NETS + PEERS),
    ):
        if unknown := set(value.split(",")) - set(known):
            raise click.BadParameter(f"{', '.join(sorted(unknown))}; it takes {', '.join(known)}", param_hint=name)
    if not torch.cuda.is_available():
        raise click.ClickException("no CUDA GPU was found; the choices are about a GPU's time")
    nets, sizes = inner_nets.split(","), [int(one) for one in batches.split(",")]
    staged = has_warpgroups(torch.device("cuda"))
    workers = min(MOST_PROCESSES, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        cases = compiled(pool, (one for net in nets for size in sizes for one in cases_of(net, size, staged)))
        if compile_only:
            return
        print(torch.cuda.get_device_name(), flush=True)
        for net in nets:
            model = model_of(net)
            of_net = [[case for case in cases if (case.inner_net, case.batch) == (net, size)] for size in sizes]
            more = [together(compare(model, some)) for some in of_net if some]
            more = [[some[0], *added] for some, added in zip(filter(None, of_net), more, strict=True) if added]
            runs = set(compiled(pool, dict.fromkeys(case for some in more for case in some)))
            for some in more:
                compare(model, [case for case in some if case in runs])


def compare(model: Model, cases: list[Case]) -> dict[Case, float]:
    """Print one line for each case of one inner net and batch. Returns the milliseconds of each."""
    steps = {case: case.step(model) for case in cases}
    logits = [step(case.tokens(), case.tokens()).float() for case, step in steps.items()]
    replays = {case: replayed(step, case.tokens()) for case, step in steps.items()}
    times: dict[Case, list[float]] = {case: [] for case in steps}
    for _ in range(TURNS):
        for case, replay in replays.items():
            times[case].append(milliseconds(replay))
    for case, found in zip(steps, logits, strict=True):
        apart = float((found - logits[0]).norm() / logits[0].norm())
        took = f"{median(times[case]):.4f} ms"
        print(f"{case.inner_net} batch {case.batch} {took}, {apart:.1e} apart: {case}", flush=True)
    torch.cuda.empty_cache()
    return {case: median(some) for case, some in times.items()}


if __name__ == "__main__":
    sys.exit(main())

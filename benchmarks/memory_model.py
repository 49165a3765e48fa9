"""How far is the predicted memory from the measured peak? `python -m benchmarks.memory_model`, on a GPU, 5 minutes.

Each configuration is prepared as a run prepares it, and makes two prompts and a few steps, in a process of its own, as
a sweep's run. A line has three peaks, predicted and measured: of PyTorch's tensors, of its allocator, and of the
device, on which no other process may be. Exit code 1: a prediction differs from its peak by more than 5 %.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeVar

import torch

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput, one_line
from ttt_mlflow.run.plan import Plan, make_plan
from ttt_mlflow.run.prediction import Prediction, predict
from ttt_mlflow.run.prepare import build, make_ready

Answer = TypeVar("Answer")
STEPS = 20  # over the end of a mini-batch
LIMIT_PCT = 5.0
EAGER, GRAPH = {"use_compile": False, "cuda_graph": False}, {"use_compile": False}
LINEAR, MLP = {"inner_net": "mlp_1_dual_triton"}, {"inner_net": "mlp_2_dual_triton"}
MAMBA = {"model_name": "state-spaces/mamba-1.4b"}
PROFILE = {"model_name": "ttt-profile"}
CONFIGURATIONS: tuple[Mapping[str, object], ...] = (
    # decode
    *({**LINEAR, **GRAPH, "batch": batch} for batch in (1, 128, 1024, 8192)),
    {**LINEAR, **EAGER, "batch": 1024},
    *({**MLP, **GRAPH, "batch": batch} for batch in (1, 128, 2048)),
    {**MLP, **EAGER, "batch": 1024},
    {**LINEAR, **GRAPH, "batch": 128, "promptlen": 2049},
    *({**MAMBA, **GRAPH, "batch": batch} for batch in (1, 128, 1024, 8192)),
    {**MAMBA, **EAGER, "batch": 1024},
    {**MAMBA, **GRAPH, "batch": 128, "promptlen": 512},
    # prompts
    {**LINEAR, "mode": "prefill", "batch": 64, "promptlen": 2048},
    {**MLP, "mode": "prefill", "batch": 4, "promptlen": 8192},
    {**MAMBA, "mode": "prefill", "batch": 16, "promptlen": 2048},
    # other models, types and inner nets
    {**LINEAR, **GRAPH, "model_name": "ttt-125m", "batch": 512, "dtype": "bfloat16"},
    {**LINEAR, **GRAPH, "model_name": "ttt-350m", "batch": 256, "dtype": "float32"},
    {**PROFILE, **EAGER, "inner_net": "mlp_1_dual", "batch": 512},
    {**PROFILE, **EAGER, "inner_net": "mlp_2_dual", "batch": 128},
    {**PROFILE, "inner_net": "mlp_2_dual", "mode": "prefill", "batch": 64, "promptlen": 128},
    # compiled, which takes seconds
    {**LINEAR, "batch": 1024},
    {**PROFILE, "inner_net": "mlp_1_dual", "batch": 512, "cuda_graph": False},
    {**PROFILE, "inner_net": "mlp_2_dual", "batch": 128},
)


@dataclass(frozen=True)
class Peaks:
    """In bytes. device: by this process, on a GPU without other processes."""

    allocated: int
    reserved: int
    device: int


@dataclass(frozen=True)
class Outcome:
    """of: the configuration, in words. line: to print, if there is anything. within: the limit, for all peaks."""

    of: str
    line: str | None = None
    within: bool = True


def measured(plan: Plan) -> Peaks:
    """The peaks of what a run does."""
    model, prompt = build(plan)
    decoder = make_ready(plan, model, prompt)
    for _ in range(2):
        decoder.prefill(prompt)
        if plan.used.mode == "decode":
            for _ in range(STEPS):
                decoder.step()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    decoder.close()
    reserved = torch.cuda.max_memory_reserved()
    return Peaks(torch.cuda.max_memory_allocated(), reserved, reserved + context)


def compared(name: str, predicted: Prediction, peaks: Peaks, seconds: float) -> Outcome:
    pairs = [
        (predicted.allocated_bytes, peaks.allocated),
        (predicted.reserved_bytes, peaks.reserved),
        (predicted.peak_bytes, peaks.device),
    ]
    errors = [100 * (ours / theirs - 1) for ours, theirs in pairs if ours is not None]
    values = " ".join(f"{(ours or 0) / 1e9:9.3f} {theirs / 1e9:8.3f}" for ours, theirs in pairs)
    line = f"{name:58} {values}  {' '.join(f'{error:+6.2f}' for error in errors)} {seconds:5.1f} s"
    return Outcome(name, line, len(errors) == len(pairs) and all(abs(error) <= LIMIT_PCT for error in errors))


def tried(asked: Mapping[str, object], words: Sequence[str]) -> Outcome:
    """In a process of its own: an allocator that is empty, and kernels that nothing has autotuned."""
    try:
        plan = make_plan(RunConfig.parse(asked))
    except BadInput as error:
        return Outcome(str(error), str(error))
    name = f"{plan.used.run_name} {plan.used.dtype}"
    if words and not any(word in name for word in words):
        return Outcome(name)
    total = torch.cuda.get_device_properties(0).total_memory
    predicted, began = predict(plan, total), time.perf_counter()
    if not predicted.fits:
        return Outcome(name, f"{name:58} predicted not to fit: {(predicted.peak_bytes or 0) / 1e9:.1f} GB")
    try:
        peaks = measured(plan)
    except RuntimeError as error:
        return Outcome(name, f"{name:58} failed: {one_line(error)}", within=False)
    return compared(name, predicted, peaks, time.perf_counter() - began)


def gpu() -> str:
    total = torch.cuda.get_device_properties(0).total_memory
    return f"{torch.cuda.get_device_name()}, {total / 1e9:.1f} GB, torch {torch.__version__}"


def in_a_process(function: Callable[..., Answer], *arguments: object) -> Answer:
    with ProcessPoolExecutor(1, get_context("spawn")) as own:
        return own.submit(function, *arguments).result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only configurations whose name has one of these words")
    words = parser.parse_args().words
    if not torch.cuda.is_available():
        parser.error("needs a CUDA GPU")
    print(in_a_process(gpu))
    print(f"{'GB, predicted and measured':58} {'tensors':>18} {'allocator':>18} {'device':>18}  differences in %")
    outside, said = [], set()
    for asked in CONFIGURATIONS:
        outcome = in_a_process(tried, asked, words)
        if outcome.line and outcome.line not in said:  # what is missing is said once
            print(outcome.line, flush=True)
            said.add(outcome.line)
        if not outcome.within:
            outside.append(outcome.of)
    print(f"more than {LIMIT_PCT:g} % from a measured peak: {', '.join(outside) or 'none'}")
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())

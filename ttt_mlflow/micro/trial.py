"""Tries a kernel before it is timed: whether it is what docs/adding-a-kernel.md asks for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttt_mlflow.micro.check import BATCH, CALLS, TOLERANCE, step_errors, worst
from ttt_mlflow.micro.inputs import PromptShape, RandomSource, StepInputs, StepShape, make_inputs, make_positions
from ttt_mlflow.micro.registry import KernelEntry, Step
from ttt_mlflow.plugins import Failed, Trial, demand

HEADS, HEAD_DIM = 2, 64


def try_kernel(entry: KernelEntry, device: torch.device, trial: Trial) -> None:
    """Try ``entry`` on ``device``: with float32 on a CPU, with each dtype on a GPU."""
    try:
        missing = trial.check("missing(device) is None or one line", partial(_missing, entry, device.type))
        if missing or (entry.needs_gpu and device.type == "cpu"):
            trial.fail("everything else", missing or "the kernel needs a GPU, and there is none here")
            return
        step = trial.check("load() returns a function", partial(_loaded, entry), may_print=True)
    except Failed:
        return
    for dtype in (torch.float32,) if device.type == "cpu" else TOLERANCE:
        sizes = (entry.layer_type, entry.form, BATCH, HEADS, HEAD_DIM, dtype)
        shape = PromptShape(*sizes, sum(CALLS["prefill"])) if entry.mode == "prefill" else StepShape(*sizes)
        try:
            _try_step(step, shape, device, trial)
        except Failed:
            continue


def _missing(entry: KernelEntry, device: str) -> str | None:
    missing = entry.missing(device)
    demand(missing is None or isinstance(missing, str), f"it returns {missing!r}")
    return missing


def _loaded(entry: KernelEntry) -> Step:
    step = entry.load()
    demand(callable(step), f"it returns {type(step).__name__}")
    return partial(step, overlap=True) if entry.overlaps else step


def _try_step(step: Step, shape: StepShape, device: torch.device, trial: Trial) -> None:
    label = str(shape.dtype).removeprefix("torch.")

    def inputs() -> StepInputs:
        return make_inputs(shape, RandomSource(0, device), CALLS[shape.mode])

    def check(what: str, action: Callable[[], Any]) -> Any:
        return trial.check(f"{label}: {what}", action)

    one, result = ("a prompt", "[B, L, D]") if shape.mode == "prefill" else ("a step", "[B, D]")
    check(f"{one} returns {result}", lambda: _shapes(step, inputs(), device))
    check(f"{one} changes only state and kept", lambda: _changes_only_its_own(step, inputs(), device))
    check(f"{sum(CALLS[shape.mode])} tokens are right, against float64", lambda: _right(step, inputs(), shape))
    check("the same inputs give the same results", lambda: _equal(_run(step, inputs()), _run(step, inputs())))


def _shapes(step: Step, inputs: StepInputs, device: torch.device) -> None:
    out, q = step(*inputs.arguments(0, make_positions(device))), inputs.tokens[0][0]
    demand(isinstance(out, Tensor), f"it returns {type(out).__name__}, not a tensor")
    found, wanted = f"{out.dtype} {list(out.shape)}", f"{q.dtype} {list(q.shape)}"
    demand(found == wanted, f"it returns {found}, not {wanted}")


def _changes_only_its_own(step: Step, inputs: StepInputs, device: torch.device) -> None:
    positions = make_positions(device)
    read = {"q": 0, "k": 1, "v": 2, "lr": 3}
    held: dict[str, Tensor] = {name: inputs.tokens[0][index] for name, index in read.items()}
    held |= {
        "eta": inputs.eta,
        "position": positions[inputs.starts[0]],
        "norm_weight": inputs.norm[0],
        "norm_bias": inputs.norm[1],
    }
    before = {name: tensor.clone() for name, tensor in held.items()}
    step(*inputs.arguments(0, positions))
    changed = [name for name, tensor in held.items() if not torch.equal(tensor, before[name])]
    demand(not changed, f"it changes {', '.join(changed)}")


def _right(step: Step, inputs: StepInputs, shape: StepShape) -> None:
    error, tolerance = worst(step_errors(step, inputs, shape)), TOLERANCE[shape.dtype]
    demand(error <= tolerance, f"a relative error of {error:.1e}; {tolerance:.0e} is allowed")


def _run(step: Step, inputs: StepInputs) -> Tensor:
    positions = make_positions(inputs.eta.device)
    return torch.cat([step(*inputs.arguments(call, positions)).flatten() for call in range(len(inputs.tokens))])


def _equal(found: Tensor, expected: Tensor) -> None:
    demand(torch.equal(found, expected), f"they differ by up to {float((found - expected).abs().max()):.1e}")

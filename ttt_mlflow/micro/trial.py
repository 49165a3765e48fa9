"""Tries a kernel before it is timed: whether it is what docs/adding-a-kernel.md asks for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttt_mlflow.micro.check import BATCH, TOLERANCE, as_tuple, step_errors, worst
from ttt_mlflow.micro.entry import KernelEntry, Step
from ttt_mlflow.micro.task import Inputs, LayerSizes, RandomSource, Task, make_positions
from ttt_mlflow.plugins import Failed, Trial, demand

HEADS, HEAD_DIM, INTERMEDIATE, VOCAB = 2, 64, 352, 500
PROMPTLEN = 1  # of the timed prompt, which is not made here


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
    for dtype in _dtypes(entry, device):
        task = entry.task(LayerSizes(HEADS, HEAD_DIM, INTERMEDIATE, VOCAB, PROMPTLEN, dtype), BATCH)
        try:
            _try_step(step, task, device, trial)
        except Failed:
            continue


def _missing(entry: KernelEntry, device: str) -> str | None:
    missing = entry.missing(device)
    demand(missing is None or isinstance(missing, str), f"it returns {missing!r}")
    return missing


def _dtypes(entry: KernelEntry, device: torch.device) -> list[torch.dtype]:
    """Those that ``entry`` takes. On a CPU, the widest of them."""
    taken = [dtype for dtype in TOLERANCE if not entry.dtypes or _name(dtype) in entry.dtypes]
    return taken[-1:] if device.type == "cpu" else taken


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _loaded(entry: KernelEntry) -> Step:
    step = entry.load()
    demand(callable(step), f"it returns {type(step).__name__}")
    return entry.checkable(partial(step, overlap=True) if entry.overlaps else step)


def _try_step(step: Step, task: Task, device: torch.device, trial: Trial) -> None:
    def inputs() -> Inputs:
        return task.inputs(RandomSource(0, device), task.checked_calls)

    def check(what: str, action: Callable[[], Any]) -> Any:
        return trial.check(f"{_name(task.dtype)}: {what}", action)

    one, returned, changed = task.wording
    check(f"{one} returns {returned}", lambda: _shapes(step, inputs(), task))
    check(f"{one} changes {changed}", lambda: _changes_only_its_own(step, inputs()))
    check(f"{sum(task.checked_calls)} tokens are right, against float64", lambda: _right(step, inputs(), task))
    check("the same inputs give the same results", lambda: _equal(_run(step, inputs()), _run(step, inputs())))


def _shapes(step: Step, inputs: Inputs, task: Task) -> None:
    positions = make_positions(inputs.device)
    exact = as_tuple(task.twin(*task.exact(inputs).arguments(0, positions)))
    found = as_tuple(step(*inputs.arguments(0, positions)))
    others = [type(one).__name__ for one in found if not isinstance(one, Tensor)]
    demand(not others, f"it returns {', '.join(others)}, not a tensor")
    wanted = ", ".join(f"{dtype} {list(one.shape)}" for one, dtype in zip(exact, task.results.values(), strict=True))
    given = ", ".join(f"{one.dtype} {list(one.shape)}" for one in found)
    demand(given == wanted, f"it returns {given}, not {wanted}")


def _changes_only_its_own(step: Step, inputs: Inputs) -> None:
    positions = make_positions(inputs.device)
    held = inputs.read_only(0, positions)
    before = {name: tensor.clone() for name, tensor in held.items()}
    step(*inputs.arguments(0, positions))
    changed = [name for name, tensor in held.items() if not torch.equal(tensor, before[name])]
    demand(not changed, f"it changes {', '.join(changed)}")


def _right(step: Step, inputs: Inputs, task: Task) -> None:
    error, tolerance = worst(step_errors(step, inputs, task)), TOLERANCE[task.dtype]
    demand(error <= tolerance, f"a relative error of {error:.1e}; {tolerance:.0e} is allowed")


def _run(step: Step, inputs: Inputs) -> Tensor:
    """All results, in float64. Each is converted before the next call: a launch may begin before the previous one has
    ended, and that must not be the call that writes its state."""
    positions, results = make_positions(inputs.device), []
    for call in range(inputs.calls):
        results += [one.double().flatten() for one in as_tuple(step(*inputs.arguments(call, positions)))]
    return torch.cat(results)


def _equal(found: Tensor, expected: Tensor) -> None:
    demand(torch.equal(found, expected), f"they differ by up to {float((found - expected).abs().max()):.1e}")

"""Checks a kernel's results against float64 before it is timed."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ttt_mlflow.micro.entry import Step
from ttt_mlflow.micro.task import Inputs, Task, make_positions

BATCH = 2
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 2e-5}


def step_errors(step: Step, inputs: Inputs, task: Task) -> dict[str, float]:
    """Relative errors of ``step`` over the calls of ``inputs``, whose state is updated.

    inputs: of ``task``, for the calls of its check. Each result has one error for all calls together. The other entries
    are those of each part of the state after each call that changed it.
    """
    exact_inputs, positions = task.exact(inputs), make_positions(inputs.device)
    found: dict[str, list[Tensor]] = {name: [] for name in task.results}
    expected: dict[str, list[Tensor]] = {name: [] for name in task.results}
    state_errors = {}
    fed = 0
    for call, tokens in enumerate(task.checked_calls):
        exact = as_tuple(task.twin(*exact_inputs.arguments(call, positions)))
        _poison_free_memory(exact, task.results.values())
        given = as_tuple(step(*inputs.arguments(call, positions)))
        if len(given) != len(exact):
            raise ValueError(f"it returns {len(given)} results, not {len(exact)}: {', '.join(task.results)}")
        for name, one, other in zip(task.results, given, exact, strict=True):
            found[name].append(one.double().flatten())
            expected[name].append(other.flatten())
        fed += tokens
        if task.changes_state(inputs, call):
            for part, (changed, want) in enumerate(zip(inputs.state, exact_inputs.state, strict=True)):
                state_errors[f"state {part} after {fed} tokens"] = relative_error(changed, want)
    return {name: relative_error(torch.cat(found[name]), torch.cat(expected[name])) for name in found} | state_errors


def as_tuple(returned: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a step returned: one result, or several."""
    return returned if isinstance(returned, tuple) else (returned,)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖; NaN if ``found`` contains NaN."""
    return float((found.double() - expected).norm() / expected.norm())


def worst(errors: dict[str, float]) -> float:
    """The largest error; NaN if one is NaN."""
    return math.nan if any(math.isnan(error) for error in errors.values()) else max(errors.values())


def _poison_free_memory(like: Iterable[Tensor], dtypes: Iterable[torch.dtype]) -> None:
    """Write NaN to the memory that the step's results will most likely get, so that unwritten elements are detected."""
    poisoned = [torch.full_like(one, torch.nan, dtype=dtype) for one, dtype in zip(like, dtypes, strict=True)]
    del poisoned

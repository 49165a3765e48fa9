"""Checks a kernel's results against float64 before it is timed."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ttt_mlflow.kernels.inner_layers import LINEAR, MINI_BATCH, MLP, InnerLayer
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_prefill
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode, mlp_prefill
from ttt_mlflow.micro.inputs import RandomSource, StepInputs, StepShape, make_positions
from ttt_mlflow.micro.registry import Step

BATCH = 2
# The tokens of each call. Of the two pieces of a prompt, neither is whole mini-batches: the second one begins with the
# vectors that the first one kept. In both modes, the state is folded, read afterwards, and folded again.
CALLS = {"decode": (1,) * (2 * MINI_BATCH + 3), "prefill": (MINI_BATCH + 7, 2 * MINI_BATCH - 4)}
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 2e-5}
# Both forms have the same result, so one float64 twin checks both.
TWINS: dict[tuple[str, InnerLayer], Callable[..., Tensor]] = {
    ("decode", LINEAR): linear_decode,
    ("decode", MLP): mlp_decode,
    ("prefill", LINEAR): linear_prefill,
    ("prefill", MLP): mlp_prefill,
}


def step_errors(step: Step, inputs: StepInputs, shape: StepShape) -> dict[str, float]:
    """Relative errors of ``step`` over the calls of ``inputs``, whose state is updated.

    ``out``: all outputs together. The other entries: each part of the state after each call that folded.
    """
    twin_shape = replace(shape, form="rank-1", dtype=torch.float64)
    source = RandomSource(0, inputs.eta.device)
    wide = replace(inputs.double(), kept=tuple(source.poisoned(part, torch.float64) for part in twin_shape.kept))
    twin, positions = TWINS[shape.mode, shape.inner_layer], make_positions(inputs.eta.device)
    outputs, expected, errors = [], [], {}
    fed = 0
    for call, (tokens, start) in enumerate(zip(CALLS[shape.mode], inputs.starts, strict=True)):
        _poison_free_memory(inputs.tokens[call][0])
        outputs.append(step(*inputs.arguments(call, positions)).double().flatten())
        expected.append(twin(*wide.arguments(call, positions)).flatten())
        fed += tokens
        if start + tokens >= MINI_BATCH:
            for part, (found, want) in enumerate(zip(inputs.state, wide.state, strict=True)):
                errors[f"state {part} after {fed} tokens"] = relative_error(found, want)
    return {"out": relative_error(torch.cat(outputs), torch.cat(expected))} | errors


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖; NaN if ``found`` contains NaN."""
    return float((found.double() - expected).norm() / expected.norm())


def worst(errors: dict[str, float]) -> float:
    """The largest error; NaN if one is NaN."""
    return math.nan if any(math.isnan(error) for error in errors.values()) else max(errors.values())


def _poison_free_memory(like: Tensor) -> None:
    """Write NaN to the memory that the step's output will most likely get, so that unwritten elements are detected."""
    torch.full_like(like, torch.nan)

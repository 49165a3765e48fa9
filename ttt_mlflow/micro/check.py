"""Checks a kernel's results against float64 before it is timed."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ttt_mlflow.kernels.inner_layers import LINEAR, MINI_BATCH, MLP, InnerLayer
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode
from ttt_mlflow.micro.inputs import RandomSource, StepInputs, StepShape, make_positions
from ttt_mlflow.micro.registry import Step

BATCH = 2
TOKENS = 2 * MINI_BATCH + 3  # the state is folded twice and read afterwards
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 2e-5}
# Both forms have the same result, so one float64 twin checks both.
TWINS: dict[InnerLayer, Callable[..., Tensor]] = {LINEAR: linear_decode, MLP: mlp_decode}


def step_errors(step: Step, inputs: StepInputs, shape: StepShape) -> dict[str, float]:
    """Relative errors of ``step`` over the tokens of ``inputs``, whose state is updated.

    ``out``: all outputs together. The other entries: each part of the state after each fold.
    """
    twin_shape = replace(shape, form="rank-1", dtype=torch.float64)
    source = RandomSource(0, inputs.eta.device)
    wide = replace(inputs.double(), kept=tuple(source.poisoned(part, torch.float64) for part in twin_shape.kept))
    twin, positions = TWINS[shape.inner_layer], make_positions(inputs.eta.device)
    outputs, expected, errors = [], [], {}
    for token in range(len(inputs.tokens)):
        position = positions[token % MINI_BATCH]
        _poison_free_memory(inputs.tokens[token][0])
        outputs.append(step(*inputs.arguments(token, position)).double())
        expected.append(twin(*wide.arguments(token, position)))
        if token % MINI_BATCH == MINI_BATCH - 1:
            for part, (found, want) in enumerate(zip(inputs.state, wide.state, strict=True)):
                errors[f"state {part} after {token + 1} tokens"] = relative_error(found, want)
    return {"out": relative_error(torch.stack(outputs), torch.stack(expected))} | errors


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖; NaN if ``found`` contains NaN."""
    return float((found.double() - expected).norm() / expected.norm())


def worst(errors: dict[str, float]) -> float:
    """The largest error; NaN if one is NaN."""
    return math.nan if any(math.isnan(error) for error in errors.values()) else max(errors.values())


def _poison_free_memory(like: Tensor) -> None:
    """Write NaN to the memory that the step's output will most likely get, so that unwritten elements are detected."""
    torch.full_like(like, torch.nan)

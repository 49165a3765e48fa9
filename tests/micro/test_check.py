"""A kernel that is right passes the check, and each way of being wrong is seen."""

import math

import pytest
import torch
from torch import Tensor

from tests.micro.cases import CPU, linear, linear_accumulate, mlp_accumulate, prompt, shape
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_prefill
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode, mlp_prefill
from ttt_mlflow.micro.check import TOLERANCE, step_errors, worst
from ttt_mlflow.micro.entry import Step
from ttt_mlflow.micro.inputs import CALLS, make_inputs
from ttt_mlflow.micro.task import RandomSource


def errors(step: Step, layer_type: str = "linear", form: str = "rank-1", dtype: torch.dtype = torch.float16):
    one = shape(layer_type, form, head_dim=32, dtype=dtype)
    return step_errors(step, make_inputs(one, RandomSource(3, CPU), CALLS["decode"]), one)


def prompt_errors(step: Step, layer_type: str = "linear", dtype: torch.dtype = torch.float16):
    one = prompt(layer_type, head_dim=32, dtype=dtype)
    return step_errors(step, make_inputs(one, RandomSource(3, CPU), CALLS["prefill"]), one)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(("layer_type", "step"), [("linear", linear_decode), ("mlp", mlp_decode)])
def test_what_is_right_passes(layer_type: str, step: Step, dtype: torch.dtype) -> None:
    found = errors(step, layer_type, dtype=dtype)
    parts = 2 if layer_type == "linear" else 4
    assert len(found) == 1 + 2 * parts, "outputs, and each part of the state after each of two folds"
    assert 0 < worst(found) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("layer_type", "step"), [("linear", linear_accumulate()), ("mlp", mlp_accumulate())])
def test_the_accumulating_form_has_the_same_result(layer_type: str, step: Step) -> None:
    assert worst(errors(step, layer_type, "accumulating")) <= TOLERANCE[torch.float16]


def too_large(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
    return out * 1.01


def late(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
    """Wrong after the second fold alone: the state has lost something by then."""
    if int(arguments[5]) == 15:
        arguments[9].mul_(0.9)
    return out


def unwritten(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
    """One row of the output is what was in its memory."""
    partial = torch.empty_like(out)
    partial[1:] = out[1:]
    partial[0] = torch.nan
    return partial


def test_a_wrong_output_is_seen() -> None:
    assert worst(errors(linear(too_large))) == pytest.approx(0.01, rel=0.05)


def test_a_wrong_state_is_seen_and_named() -> None:
    found = errors(linear(late))
    assert found["state 1 after 16 tokens"] > 0.05
    assert found["state 0 after 16 tokens"] < TOLERANCE[torch.float16]


def test_nan_is_no_small_error() -> None:
    found = errors(linear(unwritten))
    assert math.isnan(found["out"])
    assert math.isnan(worst(found))
    assert not worst(found) <= 1.0


def test_reading_an_unused_slot_is_seen() -> None:
    def careless(*arguments: Tensor) -> Tensor:
        out = linear_decode(*arguments)
        return out + 0 * arguments[11].sum((2, 3)).repeat_interleave(32, 1)

    assert math.isnan(worst(errors(careless)))


# Prompts


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(("layer_type", "step"), [("linear", linear_prefill), ("mlp", mlp_prefill)])
def test_a_prompt_in_two_pieces_that_is_right_passes(layer_type: str, step: Step, dtype: torch.dtype) -> None:
    found = prompt_errors(step, layer_type, dtype=dtype)
    parts = 2 if layer_type == "linear" else 4
    assert list(found)[1:] == [f"state {part} after {tokens} tokens" for tokens in (23, 51) for part in range(parts)]
    assert 0 < worst(found) <= TOLERANCE[dtype]


def of_the_second_piece(change: str) -> Step:
    """A prefill that is right for a prompt of its own, and wrong about what an earlier piece left behind."""

    def step(*arguments: Tensor) -> Tensor:
        given = list(arguments)
        if change == "position":
            given[5] = torch.zeros_like(given[5])
        elif int(arguments[5]):
            given[11].zero_()  # the gradients that the first piece kept
        return linear_prefill(*given)

    return step


@pytest.mark.parametrize("change", ["position", "slots"])
def test_a_prompt_that_does_not_continue_the_one_before_it_is_seen(change: str) -> None:
    found = prompt_errors(of_the_second_piece(change))
    assert found["state 0 after 23 tokens"] < TOLERANCE[torch.float16]
    assert found["out"] > 10 * TOLERANCE[torch.float16]


def test_a_prompts_unwritten_output_is_seen() -> None:
    assert math.isnan(prompt_errors(lambda *arguments: unwritten(linear_prefill(*arguments), arguments))["out"])

"""Kernels to be timed that are small, wrong, broken or too large, and shapes for them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ttt_mlflow.kernels.ttt_linear.reference import linear_decode
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode
from ttt_mlflow.micro.inputs import PromptShape, StepShape
from ttt_mlflow.micro.registry import KernelEntry, Step

CPU = torch.device("cpu")


def shape(layer_type: str = "linear", form: str = "rank-1", **sizes: Any) -> StepShape:
    """A step that takes next to no time."""
    given = {"batch": 2, "heads": 2, "head_dim": 16, "dtype": torch.float16, **sizes}
    return StepShape(layer_type, form, **given)


def prompt(layer_type: str = "linear", tokens: int = 40, **sizes: Any) -> PromptShape:
    """A prompt of two mini-batches and a half, with the sizes of :func:`shape`."""
    one = shape(layer_type, **sizes)
    return PromptShape(one.layer_type, one.form, one.batch, one.heads, one.head_dim, one.dtype, tokens)


def accumulating(decode: Step, vectors: int) -> Step:
    """A step in the accumulating form, with the sums in float64 beside the given ones: it keeps to the signature.

    It computes what the rank-1 form does from vectors of its own; at position 0 it begins anew, whatever the sums hold.
    """
    kept: list[Tensor] = []

    def step(*arguments: Tensor) -> Tensor:
        common, state = arguments[:8], arguments[8 : 8 + vectors]
        sums = arguments[8 + vectors :]
        assert len(sums) == vectors
        assert [part.shape for part in sums] == [part.shape for part in state]
        if int(common[5]) == 0:
            batch, heads, dim = state[1].shape[0], state[1].shape[1], state[-1].shape[-1]
            widths = (dim, dim) if vectors == 2 else (dim, 4 * dim, 4 * dim, dim)
            kept[:] = [torch.full((batch, heads, 16, width), torch.nan, dtype=state[0].dtype) for width in widths]
        return decode(*common, *state, *kept)

    return step


def linear_accumulate() -> Step:
    return accumulating(linear_decode, 2)


def mlp_accumulate() -> Step:
    return accumulating(mlp_decode, 4)


def linear(change: Callable[[Tensor, tuple[Tensor, ...]], Tensor]) -> Step:
    """The right step with its result changed: ``change(out, arguments)``."""
    return lambda *arguments: change(linear_decode(*arguments), arguments)


def entry(name: str, load: Callable[[], Step], **values: Any) -> KernelEntry:
    return KernelEntry(name, **{"layer_type": "linear", "form": "rank-1", "load": load, "description": name, **values})

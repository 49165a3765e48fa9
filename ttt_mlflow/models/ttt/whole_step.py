"""Decode steps that are not made of a layer's functions."""

from typing import Protocol

from torch import Tensor

from ttt_mlflow.kernels.overlapped.tensors import StepTensors
from ttt_mlflow.models.ttt.config import OVERLAPPED


class WholeStep(Protocol):
    """A decode step whose kernels are not those of the layers' functions."""

    def __call__(self, tokens: Tensor, next_tokens: Tensor) -> Tensor:
        """Feed tokens [B] int64; the next ones go to ``next_tokens`` [B] int64. Returns logits [B, V]."""


def whole_step(decode_path: str, tensors: StepTensors, batch: int) -> WholeStep | None:
    """The step of ``batch`` sequences on this path; None if it is made of a layer's functions.

    Raises ValueError for what the kernels that overlap cannot do.
    """
    if decode_path != OVERLAPPED:
        return None
    from ttt_mlflow.kernels.overlapped.launch import OverlappedStep

    return OverlappedStep(tensors, batch)

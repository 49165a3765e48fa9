"""Decode steps that are not made of a layer's functions."""

from typing import Protocol

from torch import Tensor

from ttt_mlflow.kernels.persistent.tensors import StepTensors
from ttt_mlflow.models.ttt.config import OVERLAPPED, PERSISTENT


class WholeStep(Protocol):
    """A decode step whose kernels are not those of the layers' functions."""

    def __call__(self, tokens: Tensor, next_tokens: Tensor) -> Tensor:
        """Feed tokens [B] int64; the next ones go to ``next_tokens`` [B] int64. Returns logits [B, V]."""

    def check(self) -> None:
        """Raise :class:`ttt_mlflow.kernels.persistent.launch.Stuck` if a step before has failed."""


def whole_step(decode_path: str, tensors: StepTensors, batch: int) -> WholeStep | None:
    """The step of ``batch`` sequences on this path; None if it is made of a layer's functions.

    Overlapping kernels of more sequences than :class:`OverlappedStep` takes are those functions' own. Raises ValueError
    for what the persistent kernel cannot do.
    """
    from ttt_mlflow.kernels.overlapped.launch import OverlappedStep
    from ttt_mlflow.kernels.persistent.launch import PersistentStep, reason_against

    if decode_path == PERSISTENT:
        return PersistentStep(tensors, batch)
    if decode_path == OVERLAPPED and not reason_against(tensors, batch):
        return OverlappedStep(tensors, batch)
    return None

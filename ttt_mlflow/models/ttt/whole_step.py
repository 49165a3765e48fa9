"""Decode steps that are not made of a layer's functions: the decode paths other than ``launches``."""

from typing import Protocol

from torch import Tensor

from ttt_mlflow.kernels.persistent.tensors import StepTensors
from ttt_mlflow.models.ttt.config import OVERLAPPED


class WholeStep(Protocol):
    """A decode step whose kernels are not those of the layers' functions."""

    def __call__(self, tokens: Tensor, next_tokens: Tensor) -> Tensor:
        """Feed tokens [B] int64; the next ones go to ``next_tokens`` [B] int64. Returns logits [B, V]."""

    def check(self) -> None:
        """Raise :class:`ttt_mlflow.kernels.persistent.launch.Stuck` if a step before has failed."""


def whole_step(decode_path: str, tensors: StepTensors, batch: int) -> WholeStep:
    """The step of ``batch`` sequences. Raises ValueError for what its kernels cannot do."""
    from ttt_mlflow.kernels.overlapped.launch import OverlappedStep
    from ttt_mlflow.kernels.persistent.launch import PersistentStep

    return (OverlappedStep if decode_path == OVERLAPPED else PersistentStep)(tensors, batch)

"""Decode steps that are not made of a layer's functions, and which runs have one."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels.overlapped.tensors import StepTensors, TransformerTensors
from ttt_mlflow.models.allocations import storage_bytes
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED

Reason = Callable[[ModelRequest], str | None]  # why a step cannot run as kernels that overlap, or None


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


def check_path(request: ModelRequest, reason_against_overlapping: Reason) -> None:
    """Raise BadInput if the step is to run as kernels that overlap, and cannot."""
    if request.decode_path == OVERLAPPED and (reason := reason_against_overlapping(request)):
        raise BadInput(f"decode_path={OVERLAPPED}: {reason}; change that, or set decode_path to {LAUNCHES}")


def path_by_default(request: ModelRequest, reason_against_overlapping: Reason) -> str:
    """The decode path of a run that asks for none: on a GPU, kernels that overlap wherever they can run and pay."""
    decodes = request.workload is None or request.workload.mode == "decode"
    overlap = decodes and request.device.type == "cuda" and not reason_against_overlapping(request)
    return OVERLAPPED if overlap and _overlapping_pays(request.device) else LAUNCHES


def _overlapping_pays(device: torch.device) -> bool:
    """Not where Triton moves weights that are to stay in registers, and the GPU cannot take them from shared memory."""
    from ttt_mlflow.kernels.launch import has_warpgroups
    from ttt_mlflow.kernels.overlapped.tiles import loads_operands

    return has_warpgroups(device) or loads_operands()


def compiles(request: ModelRequest) -> bool:
    """Whether the decode step has more than kernels: torch.compile changes nothing else."""
    return request.decode_path != OVERLAPPED


def staged_products(request: ModelRequest) -> bool | None:
    """Of a step of kernels that overlap, whether its products go through shared memory; None: of launches."""
    if request.decode_path != OVERLAPPED:
        return None
    from ttt_mlflow.kernels.launch import has_warpgroups

    return has_warpgroups(request.device)


def buffer_bytes(tensors: StepTensors | TransformerTensors, batch: int, staged: bool) -> list[int]:
    """The bytes of each buffer that the steps of all models have, where kernels overlap. staged: as above."""
    from ttt_mlflow.kernels.overlapped.launch import DecodeStep
    from ttt_mlflow.kernels.overlapped.shape import shape_of
    from ttt_mlflow.kernels.overlapped.tuning import Tuning

    shape = shape_of(tensors)
    return storage_bytes(DecodeStep(tensors, shape, batch, Tuning.of(shape.model, batch, staged)).buffers)

"""The roofline: the bytes and operations that a decode step or a prompt needs, and the time that they take at least.

A model counts its work as a list of :class:`Stage`. This module computes the time of a stage on a GPU. docs/roofline.md
derives the counts and states what they leave out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.workload import PARTS, Stage

MEASURED_RATES = (torch.float16, torch.bfloat16)  # dtypes to which the measured matrix rate applies


@dataclass(frozen=True)
class PartWork:
    """All stages of a part. ``milliseconds`` is None if the GPU's ceilings are not known."""

    part: str
    bytes: float
    flops: float
    milliseconds: float | None


def total_bytes(stages: Sequence[Stage]) -> float:
    return sum(stage.bytes for stage in stages)


def total_flops(stages: Sequence[Stage]) -> float:
    return sum(stage.count * stage.flops for stage in stages)


def stage_ms(stage: Stage, ceilings: GpuCeilings) -> float:
    """The larger of the time for the bytes and the time for the operations, for all ``count`` executions."""
    memory_ms = stage.bytes / (ceilings.read_gb_per_s * 1e6)
    matrix_ms = stage.count * stage.flops / (ceilings.matmul_tflops * 1e9)
    return max(memory_ms, matrix_ms)


def floor_ms(stages: Sequence[Stage], ceilings: GpuCeilings) -> float:
    """The roofline time of ``stages`` in sequence, each at the GPU's ceiling."""
    return sum(stage_ms(stage, ceilings) for stage in stages)


def by_part(stages: Sequence[Stage], ceilings: GpuCeilings | None) -> list[PartWork]:
    """The parts that the model has, in the order of :data:`PARTS`."""
    work = []
    for part in PARTS:
        own = [stage for stage in stages if stage.part == part]
        if own:
            ms = floor_ms(own, ceilings) if ceilings else None
            work.append(PartWork(part, total_bytes(own), total_flops(own), ms))
    return work


# The inner nets of TTT

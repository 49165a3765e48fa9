"""Sizes of a small layer, and what a kernel of it gets and gives."""

import torch

from ttt_mlflow.micro.check import step_errors
from ttt_mlflow.micro.entry import KernelEntry, Step
from ttt_mlflow.micro.task import LayerSizes, RandomSource


def sizes(dtype: torch.dtype = torch.float16, **changed: int) -> LayerSizes:
    given = {"heads": 2, "head_dim": 32, "intermediate": 72, "vocab": 100, "promptlen": 1, **changed}
    return LayerSizes(**given, dtype=dtype)


def layer_errors(
    entry: KernelEntry, given: LayerSizes, batch: int = 2, step: Step | None = None, device: str = "cpu"
) -> dict[str, float]:
    """The check of ``entry``, or of another ``step`` for the same task."""
    task = entry.task(given, batch)
    inputs = task.inputs(RandomSource(3, torch.device(device)), task.checked_calls)
    return step_errors(entry.checkable(step or entry.load()), inputs, task)

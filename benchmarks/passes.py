"""Decode passes that a benchmark times itself."""

from collections.abc import Callable

import torch
from torch import Tensor

from ttt_mlflow.measurement.timing import StepTimer
from ttt_mlflow.models.entry import Decoder


def timed_pass(decoder: Decoder, prompt: Tensor, steps: int, device: torch.device) -> Callable[[], float]:
    """A pass of ``steps`` decode steps after ``prompt``. It returns the device time of the steps in ms."""
    timer = StepTimer(steps, device)

    def one_pass() -> float:
        decoder.prefill(prompt)
        return timer.time_steps(decoder.step).total_ms

    return one_pass

"""Which kernels a decode path has. Their numbers: tests/kernels and tests/gpu."""

import pytest
import torch

from tests.kernels.step_cases import make_step
from ttt_mlflow.kernels.overlapped.launch import OverlappedStep
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED
from ttt_mlflow.models.ttt.whole_step import whole_step


def test_which_path_has_a_step_of_its_own() -> None:
    step = make_step("linear", 2)
    assert isinstance(whole_step(OVERLAPPED, step, 2), OverlappedStep)
    assert whole_step(LAUNCHES, step, 2) is None


def test_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="a whole step: batch=17: it takes 1 to 16 sequences"):
        whole_step(OVERLAPPED, make_step("linear", 17, layers=1), 17)
    with pytest.raises(ValueError, match="dtype=float32"):
        whole_step(OVERLAPPED, make_step("linear", 1, layers=1, dtype=torch.float32), 1)

"""Which kernels a decode path has. Their numbers: tests/kernels and tests/gpu."""

import pytest
import torch

from tests.kernels.persistent_cases import make_step
from ttt_mlflow.kernels.overlapped.launch import OverlappedStep
from ttt_mlflow.kernels.persistent.launch import PersistentStep
from ttt_mlflow.models.ttt.config import DECODE_PATHS, LAUNCHES
from ttt_mlflow.models.ttt.whole_step import whole_step

STEPS = {"overlapped": OverlappedStep, "persistent": PersistentStep}


@pytest.mark.parametrize("path", [path for path in DECODE_PATHS if path != LAUNCHES])
def test_each_path_has_its_own_step(path: str) -> None:
    step = whole_step(path, make_step("linear", 2), 2)
    assert type(step) is STEPS[path]
    assert step is not None
    step.check()


def test_what_has_none() -> None:
    assert whole_step(LAUNCHES, make_step("linear", 1, layers=1), 1) is None
    larger, wider = make_step("linear", 17, layers=1), make_step("linear", 1, layers=1, dtype=torch.float32)
    assert whole_step("overlapped", larger, 17) is None, "the functions of a layer overlap then"
    assert whole_step("overlapped", wider, 1) is None
    with pytest.raises(ValueError, match="a whole step: batch=17: it takes 1 to 16 sequences"):
        whole_step("persistent", larger, 17)
    with pytest.raises(ValueError, match="dtype=float32"):
        whole_step("persistent", wider, 1)

"""Which kernels a decode path has. Their numbers: tests/kernels and tests/gpu."""

import pytest
import torch
import triton

from tests.kernels.step_cases import make_step
from ttt_mlflow.kernels import launch
from ttt_mlflow.kernels.overlapped.launch import OverlappedStep
from ttt_mlflow.kernels.overlapped.tiles import loads_operands
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED
from ttt_mlflow.models.ttt.whole_step import path_by_default, whole_step


def test_which_path_has_a_step_of_its_own() -> None:
    step = make_step("linear", 2)
    assert isinstance(whole_step(OVERLAPPED, step, 2), OverlappedStep)
    assert whole_step(LAUNCHES, step, 2) is None


def test_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="a whole step: batch=17: it takes 1 to 16 sequences"):
        whole_step(OVERLAPPED, make_step("linear", 17, layers=1), 17)
    with pytest.raises(ValueError, match="dtype=float32"):
        whole_step(OVERLAPPED, make_step("linear", 1, layers=1, dtype=torch.float32), 1)


@pytest.mark.parametrize(
    ("capability", "version", "path"),
    [
        ((9, 0), "3.7.1", OVERLAPPED),
        ((9, 0), "3.6.0", OVERLAPPED),  # through shared memory
        ((10, 0), "3.7.1", OVERLAPPED),
        ((10, 0), "3.6.0+git0123", LAUNCHES),  # neither way
    ],
    ids=str,
)
def test_which_path_is_the_default(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], version: str, path: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setattr(triton, "__version__", version)
    request = ModelRequest("ttt-1b", "mlp_1_dual_triton", torch.float16, torch.device("cuda"), 0, None)
    launch._capability.cache_clear()
    loads_operands.cache_clear()
    try:
        assert path_by_default(request, lambda request: None) == path
        assert path_by_default(request, lambda request: "a reason") == LAUNCHES
    finally:
        launch._capability.cache_clear()
        loads_operands.cache_clear()

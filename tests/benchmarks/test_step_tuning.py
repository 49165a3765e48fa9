"""What the comparison of a step's choices refuses. Its times are a GPU's."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks.step_tuning import NETS, PERSISTENT, Case, cases_of, main, together
from ttt_mlflow.kernels.overlapped.launch import Tuning as Overlapped
from ttt_mlflow.kernels.persistent.launch import LARGEST_BATCH
from ttt_mlflow.kernels.persistent.launch import Tuning as Persistent


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("batch", PERSISTENT)
def test_the_present_choices_are_among_those_compared(net: str, batch: int) -> None:
    compared = [case.tuning for case in cases_of(net, batch)]
    assert compared[0] == Overlapped.of(net.startswith("mlp_2"), batch)
    assert Persistent.of(batch) in compared
    assert len(set(compared)) == len(compared)


def test_all_batches_are() -> None:
    assert max(PERSISTENT) == LARGEST_BATCH


def measured(**took: float) -> dict[Case, float]:
    """Milliseconds of the present choice, 1.0, and of some changes, each NAME_VALUE."""
    of_change = {Case(NETS[0], 1, Overlapped.of(is_mlp=False, batch=1)): 1.0}
    for change, ms in took.items():
        name, value = change.rsplit("_", 1)
        changed: dict[str, Any] = {name: int(value)}
        of_change[Case(NETS[0], 1, replace(Overlapped.of(is_mlp=False, batch=1), **changed))] = ms
    return of_change


def test_faster_changes_are_tried_together() -> None:
    some = together(measured(warps_2=0.9, warps_16=0.95, flight_1=0.97, columns_1024=1.1, norm_warps_2=0.999))
    assert [one.tuning for one in some] == [replace(Overlapped.of(is_mlp=False, batch=1), warps=2, flight=1)]
    assert len(together(measured(warps_2=0.9, flight_1=0.97, tiles_2=0.8))) == 4  # three pairs and all


def test_a_change_that_is_faster_alone_is_tried_with_nothing() -> None:
    assert together(measured(warps_2=0.9, columns_1024=1.1)) == []
    assert together({Case(NETS[0], 1, Persistent.of(1)): 1.0}) == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--batches=1,3", "3; it takes 1, 2, 8, 16"),
        ("--paths=launches", "launches; it takes overlapped, persistent"),
        ("--inner-nets=mlp_1", "mlp_1; it takes mlp_1_dual_triton, mlp_2"),
    ],
)
def test_bad_input(option: str, said: str) -> None:
    done = CliRunner().invoke(main, [option])
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is what is tested")
def test_without_a_gpu_it_says_so() -> None:
    done = CliRunner().invoke(main, ["--batches=1"])
    assert done.exit_code == 1
    assert "no CUDA GPU was found" in done.output

"""What the comparison of a step's choices refuses. Its times are a GPU's."""

import pytest
import torch
from click.testing import CliRunner

from benchmarks.step_tuning import NETS, PERSISTENT, cases_of, main
from ttt_mlflow.kernels.overlapped.launch import Tuning as Overlapped
from ttt_mlflow.kernels.persistent.launch import LARGEST_BATCH
from ttt_mlflow.kernels.persistent.launch import Tuning as Persistent


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("batch", PERSISTENT)
def test_the_present_choices_are_among_those_compared(net: str, batch: int) -> None:
    compared = [case.tuning for case in cases_of(net, batch)]
    assert compared[0] == Overlapped.of(is_mlp=net.startswith("mlp_2"))
    assert Persistent.of(batch) in compared
    assert len(set(compared)) == len(compared)


def test_all_batches_are() -> None:
    assert max(PERSISTENT) == LARGEST_BATCH


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

"""What the comparison of a step's choices refuses. Its times are a GPU's."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks.step_tuning import BATCHES, NETS, PEERS, TUNED, Case, cases_of, main, together
from ttt_mlflow.kernels.overlapped.shape import LARGEST_STAGED
from ttt_mlflow.kernels.overlapped.transformer import TransformerStep
from ttt_mlflow.kernels.overlapped.tuning import HALF, PAIR, Tiling, Tuning
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.transformer import sizes as transformers

PRESENT = Tuning.of("ttt_linear", batch=1, staged=True)


@pytest.mark.parametrize("net", NETS + PEERS)
@pytest.mark.parametrize("batch", BATCHES)
def test_the_present_choice_is_compared_with_others(net: str, batch: int) -> None:
    compared = [case.tuning for case in cases_of(net, batch, staged=True)]
    assert compared[0] == Tuning.of(TUNED[net], batch, staged=True)
    assert len(compared) > 10
    assert len(set(compared)) == len(compared)
    of_inner_nets = {(one.held, one.head_warps) for one in compared}
    assert (len(of_inner_nets) > 1) == (net in NETS), "which a transformer has not"


def test_each_has_a_row_of_the_table() -> None:
    assert TUNED == {
        "mlp_1_dual_triton": "ttt_linear", "mlp_2_dual_triton": "ttt_mlp", "transformer-1b": "transformer",
        "transformer-1b-gqa4": "shared_kv",
    }  # fmt: skip


def test_the_largest_batch_is_compared() -> None:
    assert max(BATCHES) == LARGEST_STAGED


def test_a_transformer_steps_with_the_choice() -> None:
    request = ModelRequest("transformer-tiny", None, torch.float16, torch.device("cpu"), 0, None)
    tuning = replace(PRESENT, down=HALF)
    step = Case("transformer-tiny", 2, tuning).step(transformers.build(request))
    assert isinstance(step, TransformerStep)
    assert (step.batch, step.tuning) == (2, tuning)
    assert step.tensors.layers[0].k.shape[2] == 129


def measured(*found: tuple[float, dict[str, Any]]) -> dict[Case, float]:
    """Milliseconds of the present choice, 1.0, and of some changes."""
    return {Case(NETS[0], 1, replace(PRESENT, **changed)): ms for ms, changed in [(1.0, {}), *found]}


def test_faster_changes_are_tried_together() -> None:
    faster: list[tuple[float, dict[str, Any]]] = [(0.9, {"norm_warps": 8}), (0.97, {"down": PAIR})]
    others: list[tuple[float, dict[str, Any]]] = [
        (0.95, {"norm_warps": 32}), (1.1, {"output": PAIR}), (0.999, {"head_warps": 2}),
    ]  # fmt: skip
    some = together(measured(*faster, *others))
    assert [one.tuning for one in some] == [replace(PRESENT, norm_warps=8, down=PAIR)]
    assert len(together(measured(*faster, (0.8, {"output": Tiling(tiles=1)})))) == 4  # three pairs and all


def test_a_change_that_is_faster_alone_is_tried_with_nothing() -> None:
    assert together(measured((0.9, {"norm_warps": 8}), (1.1, {"down": HALF}))) == []
    assert together(measured()) == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--batches=1,3", "3; it takes 1, 2, 8, 16, 32, 64, 128"),
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

"""The process that a profiler records, played on the CPU."""

from itertools import pairwise

import pytest
import torch

from tests.micro.cases import CPU, shape
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode
from ttt_mlflow.micro import nsys_child
from ttt_mlflow.micro.inputs import make_inputs
from ttt_mlflow.micro.nsys_child import LARGE_BYTES, Arena, Order
from ttt_mlflow.micro.task import RandomSource, make_positions
from ttt_mlflow.micro.timing import run_calls

LARGE = shape("mlp", batch=4, heads=32, head_dim=64)


def arena() -> Arena:
    memory = torch.zeros(LARGE.copy_bytes + LARGE_BYTES, dtype=torch.uint8)
    return Arena(memory, RandomSource(0, CPU))


def test_large_tensors_share_the_memory_and_do_not_overlap() -> None:
    inputs = make_inputs(LARGE, arena())
    spans = sorted(
        (part.data_ptr(), part.nbytes) for part in (*inputs.state, *inputs.kept) if part.nbytes >= LARGE_BYTES
    )
    assert len(spans) == 2, "W1 and W2; the biases and the vectors are small"
    assert all(begin % 256 == spans[0][0] % 256 for begin, _ in spans)
    assert all(begin + size <= after for (begin, size), (after, _) in pairwise(spans))
    assert not inputs.state[0].any(), "nothing is written into the shared memory"


def test_small_tensors_are_as_they_are_measured() -> None:
    inputs = make_inputs(LARGE, arena())
    assert all(float(lr.min()) > 0 and float(lr.max()) < 1 for *_, lr in inputs.tokens)
    assert (inputs.eta > 0).any()


def test_a_step_takes_inputs_in_shared_memory() -> None:
    outputs = run_calls(mlp_decode, [make_inputs(LARGE, arena(), calls=(1,))], make_positions(CPU))
    assert outputs[0].shape == (4, 32 * 64)


def test_it_runs_each_kernel_and_batch(capsys: pytest.CaptureFixture[str]) -> None:
    config = MicroConfig.parse(
        {"kernels": "mlp_1_dual,mlp_2_prefill", "promptlen": 40, "heads": 2, "head_dim": 16, "device": "cpu"}
    )
    cells = [("mlp_1_dual", 2), ("mlp_2_prefill", 1)]
    nsys_child.main(Order(config=config, cells=cells).model_dump_json())
    assert capsys.readouterr().out == "ran a mini-batch or a prompt of mlp_1_dual batch 2, mlp_2_prefill batch 1\n"

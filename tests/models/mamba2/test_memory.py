"""What is said of Mamba-2's memory: the published weights, the state, and what mamba-ssm allocates on the way."""

import pytest
import torch

from tests.models.mamba2.test_work import PARAMETERS
from ttt_mlflow.models.allocations import STATE, WEIGHTS, WORKSPACES, Allocate, Allocations, Free
from ttt_mlflow.models.mamba2.memory import MemoryOfMamba2
from ttt_mlflow.models.mamba2.model import SIZES, VOCAB_SIZE
from ttt_mlflow.run.prediction import replay
from ttt_mlflow.workload import Workload

NAME = "state-spaces/mamba2-1.3b"


def made(
    name: str = NAME, batch: int = 2, promptlen: int = 1, cuda_graph: bool = True, mode: str = "decode"
) -> Allocations:
    workload = Workload(mode, batch, promptlen, 4)
    return MemoryOfMamba2(*SIZES[name], VOCAB_SIZE, torch.float16, workload).allocations(cuda_graph)


def total(allocations: Allocations, kind: str) -> int:
    return sum(one.size for one in allocations.events if isinstance(one, Allocate) and one.kind == kind)


@pytest.mark.parametrize("name", SIZES)
def test_weights_are_the_published_ones_with_d_in_float32(name: str) -> None:
    width, layers = SIZES[name]
    assert total(made(name), WEIGHTS) == 2 * PARAMETERS[name] + 2 * layers * 2 * width // 64


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_state_is_there_once(cuda_graph: bool) -> None:
    assert total(made(batch=1024, cuda_graph=cuda_graph), STATE) == 1024 * 48 * (4096 * 128 + 4352 * 4) * 2


@pytest.mark.parametrize(("mode", "promptlen"), [("prefill", 1), ("decode", 2)])
def test_a_short_prompt_needs_whole_states_beside_the_state(mode: str, promptlen: int) -> None:
    """mamba-ssm processes it as a chunk: states in float32, those between chunks in float16, the last in float32."""
    found = made(batch=1024, promptlen=promptlen, mode=mode)
    allocator, at_peak = replay(found)
    beside = 1024 * 4096 * 128 * (4 + 2 + 4)
    kept = total(found, WEIGHTS) + total(found, STATE)
    assert kept + beside < allocator.peak_allocated < kept + beside + 0.5e9
    assert at_peak[STATE] == total(found, STATE)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_prompt_of_one_token_before_decode_steps_needs_no_more_than_they(cuda_graph: bool) -> None:
    found = made(batch=1024, cuda_graph=cuda_graph)
    kept = total(found, WEIGHTS) + total(found, STATE) + total(found, WORKSPACES)
    assert kept < replay(found)[0].peak_allocated < kept + 0.4e9


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("promptlen", [1, 300])
def test_nothing_of_a_layer_is_left(promptlen: int, cuda_graph: bool) -> None:
    """Beside weights and state: a few rows, and with a graph those that it keeps."""
    found = made(batch=8, promptlen=promptlen, cuda_graph=cuda_graph)
    freed = {one.number for one in found.events if isinstance(one, Free)}
    left = [one.size for one in found.events if isinstance(one, Allocate) and one.number not in freed]
    others = sum(left) - total(found, WEIGHTS) - total(found, STATE) - total(found, WORKSPACES)
    logits = (2 if cuda_graph else 1) * 8 * 50288 * 2
    assert logits <= others <= logits + 10 * 8 * max(promptlen, 8)

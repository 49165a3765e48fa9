"""What is said of the memory of gated delta networks and RWKV-7. test_models.py has the package's weights and state."""

import pytest
import torch

from tests.models.fla.test_work import PARAMETERS, STATE
from ttt_mlflow.models import allocations as kinds
from ttt_mlflow.models.allocations import Allocate, Allocations, EmptyCache, Free
from ttt_mlflow.models.entry import Execution, ModelRequest
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.run.prediction import replay
from ttt_mlflow.workload import Workload

KEPT = (kinds.WEIGHTS, kinds.STATE, kinds.WORKSPACES)


def made(
    name: str, batch: int = 2, promptlen: int = 1, cuda_graph: bool = True, dtype: torch.dtype = torch.float16
) -> Allocations:
    request = ModelRequest(name, None, dtype, torch.device("cpu"), 0, None)
    allocations = find_model(name).allocations
    assert allocations
    return allocations(request, Workload("decode", batch, promptlen, 4), Execution(False, cuda_graph))


def total(found: Allocations, kind: str) -> int:
    return sum(one.size for one in found.events if isinstance(one, Allocate) and one.kind == kind)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", PARAMETERS)
def test_the_state_is_float32_and_there_once(name: str, dtype: torch.dtype) -> None:
    small = 21 * 4 * 6144 if "delta" in name else 24 * 2 * 2048
    position = 4 if "delta" in name else 0
    found = total(made(name, 1024, dtype=dtype), kinds.STATE)
    assert found == 1024 * (4 * STATE[name] + dtype.itemsize * small) + position


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_are_little_more_than_the_parameters(name: str) -> None:
    """Padding, and the gated delta network's filters, which are there a second time; less than 2 %."""
    assert 1 < total(made(name), kinds.WEIGHTS) / (2 * PARAMETERS[name]) < 1.02


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_step_adds_little_to_weights_and_state(name: str) -> None:
    found = made(name, 1024)
    allocator, at_peak = replay(found)
    kept = total(found, kinds.WEIGHTS) + total(found, kinds.STATE)
    assert at_peak[kinds.STATE] == pytest.approx(total(found, kinds.STATE), abs=512), "blocks have whole 512 bytes"
    assert kept < allocator.peak_allocated < kept + 0.5e9
    assert sum(isinstance(one, EmptyCache) for one in found.events) == 1
    assert not any(isinstance(one, EmptyCache) for one in made(name, cuda_graph=False).events)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_prompt_goes_through_the_layers_in_parts(name: str) -> None:
    """Its temporaries grow with its tokens, but not beyond those that go through a layer at once."""

    def temporaries(promptlen: int) -> int:
        found = made(name, 16, promptlen)
        return replay(found)[0].peak_allocated - total(found, kinds.WEIGHTS) - total(found, kinds.STATE)

    short, whole, long = temporaries(2048), temporaries(4096), temporaries(32768)
    assert short < whole
    assert long - whole == pytest.approx(16 * (32768 - 4096) * 8, rel=0.01), "the prompt itself"


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_prompt_in_float32_goes_token_by_token(name: str) -> None:
    """fla's kernels for prompts have 16 bits."""
    one, many = (made(name, 16, promptlen, dtype=torch.float32) for promptlen in (1, 2048))
    assert len(one.events) == len(many.events)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(("batch", "promptlen"), [(1, 1), (4, 64), (3, 65), (16, 4097)])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_nothing_but_weights_and_state_is_left(name: str, batch: int, promptlen: int, cuda_graph: bool) -> None:
    """Prompt and token stay, and what cuBLAS keeps."""
    events = made(name, batch, promptlen, cuda_graph).events
    freed = {one.number for one in events if isinstance(one, Free)}
    left = [one for one in events if isinstance(one, Allocate) and one.number not in freed]
    assert sorted(one.size for one in left if one.kind == kinds.TEMPORARIES) == [batch * 8, batch * 8 * promptlen]
    assert all(one.number not in freed for one in events if isinstance(one, Allocate) and one.kind in KEPT)

"""Bytes and operations of Mamba-2, counted a second time."""

import pytest
import torch

from ttt_mlflow.models.mamba2.model import SIZES, VOCAB_SIZE
from ttt_mlflow.models.mamba2.work import stages
from ttt_mlflow.workload import CONVOLUTION, HEAD, INNER, PROJECTIONS, Stage, Workload

# as mamba-ssm 2.3.2 builds them, with the vocabulary padded to 50,288
PARAMETERS = {
    "state-spaces/mamba2-130m": 128_989_632,
    "state-spaces/mamba2-370m": 368_346_624,
    "state-spaces/mamba2-780m": 780_161_280,
    "state-spaces/mamba2-1.3b": 1_343_757_312,
    "state-spaces/mamba2-2.7b": 2_702_599_680,
}
NAME = "state-spaces/mamba2-1.3b"


def parameters_of(width: int, layers: int) -> int:
    """Expansion 2, heads of 64, state 128, one group, convolution 4, tied embeddings."""
    inner, state, taps = 2 * width, 128, 4
    heads, channels = inner // 64, inner + 2 * state
    layer = width  # norm
    layer += width * (2 * inner + 2 * state + heads)  # in_proj: z, x, B, C, step sizes
    layer += channels * (taps + 1)  # conv1d
    layer += 3 * heads + inner + inner * width  # dt_bias, A_log, D; the gated norm; out_proj
    return 50288 * width + layers * layer + width


def of_part(found: list[Stage], part: str, what: str) -> float:
    return sum(one.count * getattr(one, what) for one in found if one.part == part)


def made(batch: int, promptlen: int = 1, mode: str = "decode", name: str = NAME) -> list[Stage]:
    return stages(*SIZES[name], VOCAB_SIZE, torch.float16, Workload(mode, batch, promptlen, 4))


def test_published_sizes() -> None:
    assert {name: parameters_of(*size) for name, size in SIZES.items()} == PARAMETERS
    assert abs(PARAMETERS[NAME] / 1_323_070_592 - 1) < 0.1, "in the class of ttt-1b"


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("mode", "promptlen"), [("decode", 1), ("prefill", 2048)])
def test_every_weight_is_read_once(name: str, mode: str, promptlen: int) -> None:
    """D is float32."""
    width, layers = SIZES[name]
    weights = sum(one.count * one.weight_bytes for one in made(16, promptlen, mode, name))
    assert weights == 2 * PARAMETERS[name] + 2 * layers * 2 * width // 64


def test_a_step_moves_the_state_twice() -> None:
    """50.3 MB of a sequence in float16, and 1.7 MB of the convolution; with the operands of the scan."""
    state, operands = 48 * 4096 * 128, 48 * (2 * 4096 + 2 * 128 + 64)
    assert 2 * state == 50_331_648
    for batch in (1, 1024):
        found = made(batch)
        assert of_part(found, INNER, "state_bytes") == 2 * batch * (2 * state + operands)
        assert of_part(found, CONVOLUTION, "state_bytes") == 2 * batch * 48 * 4 * 4352


def test_a_prompt_writes_the_state_once() -> None:
    state, operands = 48 * 4096 * 128, 48 * (2 * 4096 + 2 * 128 + 64)
    found = made(16, 2048, "prefill")
    assert of_part(found, INNER, "state_bytes") == 2 * 16 * (state + 2048 * operands)
    assert of_part(found, CONVOLUTION, "state_bytes") == 2 * 16 * 48 * 3 * 4352


def test_operations() -> None:
    found = made(64)
    assert of_part(found, PROJECTIONS, "flops") == 2 * 64 * 48 * (2048 * 8512 + 4096 * 2048)
    assert of_part(found, INNER, "flops") == 64 * 48 * 4096 * (5 * 128 + 2)
    assert of_part(found, CONVOLUTION, "flops") == 8 * 64 * 48 * 4352
    assert of_part(found, HEAD, "flops") == 2 * 64 * 50288 * 2048

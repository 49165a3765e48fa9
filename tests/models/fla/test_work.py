"""Bytes and operations of gated delta networks and RWKV-7, counted a second time."""

import pytest
import torch

from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.fla.entries import kept_bytes
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.workload import CONVOLUTION, FEED_FORWARD, HEAD, INNER, PROJECTIONS, Stage, Workload

DELTA, RWKV = "gated-deltanet-1.3b", "rwkv7-1.3b"
# within 10 % of ttt-1b's, and those that the package builds: tests/models/fla/test_models.py
PARAMETERS = {DELTA: 1_359_250_172, RWKV: 1_338_546_176}
STATE = {DELTA: 21 * 6 * 256 * 512, RWKV: 24 * 32 * 64 * 64}  # elements of a sequence
TTT_1B = 1_323_070_592


def stages(name: str, batch: int, promptlen: int = 1, mode: str = "decode") -> list[Stage]:
    request = ModelRequest(name, None, torch.float16, torch.device("cpu"), 0, None)
    work = find_model(name).work
    assert work
    return work(request, Workload(mode, batch, promptlen, 4))


def of_part(found: list[Stage], part: str, what: str) -> float:
    return sum(one.count * getattr(one, what) for one in found if one.part == part)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_weight_is_read_once(name: str) -> None:
    single = 2 * 21 * 2 * 6 if name == DELTA else 0  # A and the bias of the decay are float32: two bytes more for each
    assert abs(PARAMETERS[name] / TTT_1B - 1) < 0.1
    for mode, promptlen in (("decode", 1), ("prefill", 2048)):
        weights = sum(one.count * one.weight_bytes for one in stages(name, 16, promptlen, mode))
        assert weights == 2 * PARAMETERS[name] + single


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_step_reads_and_writes_the_state_in_float32(name: str) -> None:
    """And the operands, in the model's dtype: q, k, v, output and two logits; nine vectors of the width."""
    operands = 21 * (6144 + 3072 + 12) if name == DELTA else 24 * 9 * 2048
    for batch in (1, 1024):
        assert of_part(stages(name, batch), INNER, "state_bytes") == batch * (8 * STATE[name] + 2 * operands)


def test_the_small_states() -> None:
    """Four inputs of the convolutions move: three are read, one is written. The token before is read and written."""
    assert of_part(stages(DELTA, 128), CONVOLUTION, "state_bytes") == 128 * 21 * 4 * 6144 * 2
    assert of_part(stages(RWKV, 128), CONVOLUTION, "state_bytes") == 128 * 24 * 2 * 2048 * 2
    assert of_part(stages(RWKV, 128), FEED_FORWARD, "state_bytes") == 128 * 24 * 2 * 2048 * 2


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_prompts_state_is_written_once(name: str) -> None:
    tokens = 16 * 2048
    operands = tokens * (21 * (6144 + 3072 + 12) if name == DELTA else 24 * 9 * 2048)
    found = stages(name, 16, 2048, "prefill")
    assert of_part(found, INNER, "state_bytes") == 16 * 4 * STATE[name] + 2 * operands


@pytest.mark.parametrize("name", PARAMETERS)
def test_operations_of_a_step(name: str) -> None:
    """Two for each weight of a matrix product, and a few for each element of the state."""
    found = stages(name, 64)
    layers = 21 if name == DELTA else 24
    if name == DELTA:
        projections = 2048 * (6144 + 3072 + 12) + 3072 * 2048
        filters, per_element = 21 * 4 * 6144, 7
    else:
        projections = 4 * 2048**2 + 2 * 2048 * (16 + 64 + 64 + 128)
        filters, per_element = 24 * 6 * 2048, 9
    first = 2 * 2048 * 16 if name == RWKV else 0  # the first layer lacks one low-rank projection
    assert of_part(found, PROJECTIONS, "flops") == 2 * 64 * (layers * projections - first)
    mixing = 24 * 2048 if name == RWKV else 0
    matrices = 3 * 5632 * 2048 if name == DELTA else 2 * 8192 * 2048
    assert of_part(found, FEED_FORWARD, "flops") == 2 * 64 * (layers * matrices + mixing)
    assert of_part(found, CONVOLUTION, "flops") == 2 * 64 * filters
    assert of_part(found, INNER, "flops") == 64 * per_element * STATE[name]
    assert of_part(found, HEAD, "flops") == 2 * 64 * 50280 * 2048


@pytest.mark.parametrize("name", PARAMETERS)
def test_behind_the_last_state_a_prompt_has_one_token(name: str) -> None:
    """The output projection and the feed-forward of the last layer, as for TTT."""
    whole, step = stages(name, 16, 2048, "prefill"), stages(name, 16)
    layers = 21 if name == DELTA else 24
    mixing = 2 * 24 * 2048 * 16 if name == RWKV else 0
    products = of_part(step, FEED_FORWARD, "flops") - mixing
    expected = products * ((layers - 1) * 2048 + 1) / layers + mixing * 2048
    assert of_part(whole, FEED_FORWARD, "flops") == pytest.approx(expected, rel=1e-12)


def test_bytes_that_a_cpu_must_have() -> None:
    """Weights with the fused filters, and the state of two sequences."""
    request = ModelRequest(DELTA, None, torch.float32, torch.device("cpu"), 0, None)
    kept = kept_bytes(request, Workload("decode", 2, 1, 4))
    padding, filters = 21 * 2048 * (9280 - 9228), 21 * 4 * 6144
    position = 4
    state = 2 * (4 * STATE[DELTA] + 4 * 21 * 4 * 6144)
    assert kept == 4 * (PARAMETERS[DELTA] + padding + filters) + state + position

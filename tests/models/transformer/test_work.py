"""What is counted of a transformer, against a count of another kind."""

import pytest
import torch

from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.transformer.sizes import SIZES, work
from ttt_mlflow.models.transformer.work import decode_stages
from ttt_mlflow.workload import ATTENTION, Stage, Workload

HALF = torch.float16


def total(stages: list[Stage], part: str | None = None) -> tuple[float, float]:
    """Bytes and operations."""
    own = [stage for stage in stages if part in (None, stage.part)]
    return sum(stage.bytes for stage in own), sum(stage.count * stage.flops for stage in own)


def request(name: str) -> ModelRequest:
    return ModelRequest(name, None, HALF, torch.device("cpu"), 0, None)


@pytest.mark.parametrize("name", SIZES)
def test_every_weight_is_read_once(name: str) -> None:
    for workload in (Workload("decode", 1, 1, 9), Workload("prefill", 7, 33, 1)):
        stages = work(request(name), workload)
        assert sum(stage.count * stage.weight_bytes for stage in stages) == 2 * SIZES[name].parameters


@pytest.mark.parametrize(("promptlen", "genlen"), [(1, 1), (1, 256), (2000, 17)])
def test_a_step_is_the_mean_of_a_pass(promptlen: int, genlen: int) -> None:
    config = SIZES["transformer-1b-gqa4"]
    each = [total(decode_stages(config, HALF, 5, promptlen + step)) for step in range(genlen)]
    found = total(work(request("transformer-1b-gqa4"), Workload("decode", 5, promptlen, genlen)))
    assert found == pytest.approx(tuple(sum(numbers) / genlen for numbers in zip(*each, strict=True)))


def test_the_cache_of_a_step() -> None:
    """Average context 129: a prompt of 1 and 256 steps, of which the last reads 256 tokens."""
    stages = work(request("transformer-1b"), Workload("decode", 16, 1, 256))
    cache, flops = total(stages, ATTENTION)
    operands = 24 * (3 + 1) * 2048 * 2
    assert cache == 16 * (196_608 * (128.5 + 1) + operands)
    assert flops == 16 * 24 * 4 * 2048 * 129.5


def test_the_attention_of_a_prompt() -> None:
    """Every pair of a token and one up to it, but for the last layer, where the last token attends alone."""
    tokens = 9
    _, flops = total(work(request("transformer-tiny"), Workload("prefill", 2, tokens, 1)), ATTENTION)
    config = SIZES["transformer-tiny"]
    pairs = sum(range(1, tokens + 1)) * (config.num_layers - 1) + tokens
    assert flops == 2 * 2 * 2 * config.hidden_size * pairs

"""The registered transformers: of the class of ttt-1b, with its vocabulary, the same from the same seed."""

import pytest
import torch

from ttt_mlflow.models.entry import Execution, ModelRequest
from ttt_mlflow.models.transformer.sizes import SIZES, allocations, build, check, entries, kept_bytes
from ttt_mlflow.workload import Workload

CPU = torch.device("cpu")
TTT_1B = 1_323_070_592
TINY = ModelRequest("transformer-tiny", None, torch.float32, CPU, 0, None)


@pytest.mark.parametrize(
    ("name", "kv_heads", "cache_bytes"), [("transformer-1b", 16, 196_608), ("transformer-1b-gqa4", 4, 49_152)]
)
def test_the_class_of_1b(name: str, kv_heads: int, cache_bytes: int) -> None:
    config = SIZES[name]
    assert config.parameters == pytest.approx(TTT_1B, rel=0.01)
    assert config.vocab_size == 50277
    assert config.num_kv_heads == kv_heads
    assert 2 * config.num_layers * config.kv_width * 2 == cache_bytes, "of a token, in float16"


def test_parameters_are_those_of_the_model() -> None:
    model = build(TINY)
    assert model.parameter_count() == SIZES["transformer-tiny"].parameters
    other = build(TINY)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert not torch.equal(
        build(ModelRequest("transformer-tiny", None, torch.float32, CPU, 1, None)).layers[0].qkv, model.layers[0].qkv
    )


def test_what_is_kept() -> None:
    workload = Workload("decode", 3, 10, 20)
    model = build(TINY)
    state = model.new_cache(3, workload.max_length())
    held = [*model.parameters(), *model.memory_parts(state)["state"]]
    assert kept_bytes(TINY, workload) == sum(tensor.nbytes for tensor in held)
    assert allocations(TINY, workload, Execution(compiled=False, cuda_graph=True)).events


def test_the_entries() -> None:
    assert [entry.name for entry in entries()] == list(SIZES)
    for entry in entries():
        assert entry.cost_grows
        assert entry.check is check

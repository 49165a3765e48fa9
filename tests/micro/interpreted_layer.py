"""The kernels of a layer outside its inner net, in Triton's interpreter. Run by tests/kernels/test_interpreter.py."""

import pytest
import torch

from tests.micro.layer_cases import layer_errors, sizes
from ttt_mlflow.micro.check import TOLERANCE, worst
from ttt_mlflow.micro.entry import KernelEntry
from ttt_mlflow.micro.layer_entries import LAYER

# a weight's rows in three parts: more columns than a program has, and the last part is not full
LONG_ROWS = sizes(intermediate=4200, heads=1, head_dim=32)


def entries(word: str) -> list[KernelEntry]:
    return [entry for entry in LAYER if entry.name.endswith(word)]


@pytest.mark.parametrize("entry", LAYER, ids=lambda entry: entry.name)
def test_it_is_right(entry: KernelEntry) -> None:
    errors = layer_errors(entry, sizes())
    assert 0 < worst(errors) <= TOLERANCE[torch.float16], errors


def test_sums_of_three_parts() -> None:
    (entry,) = entries("down_proj_stream")
    assert worst(layer_errors(entry, LONG_ROWS)) <= TOLERANCE[torch.float16]
    task = entry.task(LONG_ROWS, 2)
    x, weight = torch.zeros(2, 4200).half(), torch.zeros(32, 4200).half()
    assert entry.load()(x, weight).shape == (3, *task.returned["out"].shape)  # type: ignore[attr-defined]


@pytest.mark.parametrize("entry", entries("head_stream"), ids=lambda entry: entry.name)
def test_more_than_eight_sequences(entry: KernelEntry) -> None:
    assert worst(layer_errors(entry, sizes(), batch=9)) <= TOLERANCE[torch.float16]


def test_seventeen_are_refused() -> None:
    for entry in entries("_stream"):
        with pytest.raises(ValueError, match="17 sequences: kernels that overlap take 1 to 16"):
            layer_errors(entry, sizes(), batch=17)


@pytest.mark.parametrize("entry", entries("_triton"), ids=lambda entry: entry.name)
def test_float32(entry: KernelEntry) -> None:
    assert worst(layer_errors(entry, sizes(torch.float32, head_dim=24))) <= TOLERANCE[torch.float32]

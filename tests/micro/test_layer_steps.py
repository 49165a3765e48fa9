"""The matrix products of a layer. The streaming kernel and Triton's others: interpreted_layer.py and tests/gpu."""

import pytest
import torch

from tests.micro.layer_cases import layer_errors, sizes
from ttt_mlflow.micro import layer_steps
from ttt_mlflow.micro.check import TOLERANCE, worst
from ttt_mlflow.micro.layer_entries import LAYER


@pytest.mark.parametrize("name", ["projection_cublas", "o_proj_cublas", "down_proj_cublas", "head_cublas"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_pytorchs_products_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    (entry,) = (one for one in LAYER if one.name == name)
    assert worst(layer_errors(entry, sizes(dtype))) <= TOLERANCE[dtype]


def test_the_word_of_the_largest_value_of_each_program() -> None:
    """A value's bits above, and below how far its word is from the last: the first of equal values is the largest."""
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, -1.0, 5.0, 4.0]]).half()
    programs = [[(1.0, 0), (3.0, 1)], [(0.0, 0), (5.0, 2)]]

    def packed(value: float, word: int) -> int:
        bits = int(torch.tensor(value).view(torch.int32))
        return (bits << 32) | (0x7FFFFFFF - word)

    lowest = -(1 << 63)
    best = torch.tensor([[packed(*one[at]) for at in range(2)] for one in programs] + [[lowest] * 2] * 6)
    found, largest = layer_steps.found_best((logits, best))
    assert found is logits
    assert largest.tolist() == [3.0, 5.0]

"""The plain-PyTorch prefill of the inner nets against the paper's equations in float64, and its arguments."""

import pytest
import torch

from tests.kernels.decode_cases import EXTREMES, TOLERANCE
from tests.kernels.prefill_cases import NETS, PIECES, TWINS, check
from ttt_mlflow.kernels.mini_batch import parts


@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.float64], ids=str)
@pytest.mark.parametrize("pieces", PIECES, ids=str)
@pytest.mark.parametrize("net", NETS)
def test_prefill_is_the_equations(net, pieces, dtype):
    check(net, TWINS[net], dtype, pieces, batch=3, heads=2, dim=16)


@pytest.mark.parametrize(("dtype", "scale"), EXTREMES, ids=str)
@pytest.mark.parametrize("net", NETS)
def test_large_and_tiny_inputs(net, dtype, scale):
    check(net, TWINS[net], dtype, (20, 19), scale, batch=2, heads=2, dim=64)


def test_a_prompt_is_divided_at_the_ends_of_mini_batches():
    divided = [(t.start, t.stop, p.start, p.stop) for t, p in parts(5, 30)]
    assert divided == [(0, 11, 5, 16), (11, 27, 0, 16), (27, 30, 0, 3)]
    assert [(t.stop, p.stop) for t, p in parts(15, 1)] == [(1, 16)]
    assert list(parts(3, 0)) == []

"""The decode kernels on a real GPU, against float64."""

import pytest
import torch

from tests.kernels.decode_cases import SIZE, TOLERANCE, errors, make_case
from ttt_mlflow.kernels import reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
TOKENS = 2 * SIZE + 5  # the state is folded twice and read after it; the oracle's time goes with the tokens
HEADS_DIMS = [(12, 64), (16, 96), (32, 64)]
BATCHES = [1, 3, 128]  # each with every dtype and with every head


def step_of(layer_type):
    from ttt_mlflow.kernels.ttt_linear_decode import linear_decode
    from ttt_mlflow.kernels.ttt_mlp_decode import mlp_decode

    return linear_decode if layer_type == "linear" else mlp_decode


def check(layer_type, step, dtype, **shape):
    found = errors(step, make_case(layer_type, dtype=dtype, device="cuda", **shape))
    assert all(error < TOLERANCE[dtype] for error in found.values()), found


@pytest.mark.parametrize(
    ("dtype", "heads", "dim", "batch"),
    [
        (dtype, heads, dim, BATCHES[(row + column) % 3])
        for row, dtype in enumerate(TOLERANCE)
        for column, (heads, dim) in enumerate(HEADS_DIMS)
    ],
    ids=str,
)
@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_triton_matches_float64(layer_type, dtype, heads, dim, batch):
    check(layer_type, step_of(layer_type), dtype, batch=batch, heads=heads, dim=dim, tokens=TOKENS)


@pytest.mark.parametrize("scale", [1e-2, 30.0])
@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_large_and_tiny_inputs(layer_type, scale):
    check(layer_type, step_of(layer_type), torch.float16, batch=3, heads=12, dim=64, tokens=SIZE + 3, scale=scale)


@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_pytorch_matches_float64(layer_type):
    step = reference.linear_decode if layer_type == "linear" else reference.mlp_decode
    check(layer_type, step, torch.float16, batch=3, heads=32, dim=64, tokens=SIZE + 3)

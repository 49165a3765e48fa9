"""The plain-PyTorch inner nets against the paper's equations in float64."""

import pytest
import torch

from tests.kernels.decode_cases import TOLERANCE, errors, make_case
from ttt_mlflow.kernels import reference

STEPS = {"linear": reference.linear_decode, "mlp": reference.mlp_decode}


@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.float64], ids=str)
@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_decode_matches_float64_over_mini_batches(layer_type, dtype):
    found = errors(STEPS[layer_type], make_case(layer_type, batch=3, heads=2, dim=16, dtype=dtype))
    limit = TOLERANCE.get(dtype, 1e-6)
    assert all(error < limit for error in found.values()), found


@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_state_changes_at_the_end_of_a_mini_batch_only(layer_type):
    case = make_case(layer_type, batch=2, heads=2, dim=16, dtype=torch.float16, tokens=15)
    before = [p.clone() for p in case.params]
    errors(STEPS[layer_type], case)
    assert all(torch.equal(a, b) for a, b in zip(before, case.params, strict=True))


@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_large_and_tiny_inputs(layer_type, scale):
    case = make_case(layer_type, batch=2, heads=2, dim=16, dtype=torch.float32, scale=scale)
    found = errors(STEPS[layer_type], case)
    assert all(error < TOLERANCE[torch.float32] for error in found.values()), found

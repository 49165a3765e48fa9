"""The plain-PyTorch inner nets against the paper's equations in float64."""

import os
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels.decode_cases import SIZE, TOLERANCE, errors, make_case
from ttt_mlflow.kernels import reference

CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
STEPS: dict[str, Callable[..., Tensor]] = {
    "linear": reference.linear_decode,
    "mlp": reference.mlp_decode,
    "linear_accumulate": reference.linear_accumulate,
    "mlp_accumulate": reference.mlp_accumulate,
}


@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.float64], ids=str)
@pytest.mark.parametrize("kind", STEPS)
def test_decode_matches_float64_over_mini_batches(kind, dtype):
    found = errors(STEPS[kind], make_case(kind, batch=3, heads=2, dim=16, dtype=dtype))
    limit = TOLERANCE.get(dtype, 1e-6)
    assert all(error < limit for error in found.values()), found


@pytest.mark.parametrize("kind", STEPS)
def test_state_changes_at_the_end_of_a_mini_batch_only(kind):
    case = make_case(kind, batch=2, heads=2, dim=16, dtype=torch.float16, tokens=15)
    before = [p.clone() for p in case.params]
    errors(STEPS[kind], case)
    assert all(torch.equal(a, b) for a, b in zip(before, case.params, strict=True))


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_large_and_tiny_inputs(kind, scale):
    case = make_case(kind, batch=2, heads=2, dim=16, dtype=torch.float32, scale=scale)
    found = errors(STEPS[kind], case)
    assert all(error < TOLERANCE[torch.float32] for error in found.values()), found


@pytest.mark.skipif(not CXX, reason="compiling for a CPU needs a C++ compiler")
@pytest.mark.parametrize(("kind", "dtype"), [("linear", torch.float32), ("mlp", torch.float16)], ids=str)
def test_a_compiled_step_gives_the_same_bits(kind, dtype):
    """Within a mini-batch and at its end, outputs and state: greedy tokens rest on it."""
    compiled = torch.compile(STEPS[kind], dynamic=False)
    cases = [make_case(kind, batch=16, heads=4, dim=64, dtype=dtype, tokens=18, seed=5) for _ in range(2)]
    for t in range(18):
        position = torch.tensor([t % SIZE], dtype=torch.int32)
        eager, other = (
            step(c.q[t], c.k[t], c.v[t], c.lr[t], c.eta, position, c.gamma, c.beta, *c.params, *c.slots)
            for step, c in zip((STEPS[kind], compiled), cases, strict=True)
        )
        assert torch.equal(eager, other)
    for one, two in zip(cases[0].params, cases[1].params, strict=True):
        assert torch.equal(one, two)

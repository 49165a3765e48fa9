"""The plain-PyTorch inner nets against the paper's equations in float64."""

import os
import shutil

import pytest
import torch

from tests.kernels.decode_cases import (
    EXTREMES,
    KINDS,
    SIZE,
    TOLERANCE,
    TWINS,
    check,
    check_state_between_folds,
    errors,
    make_case,
)

CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_decode_matches_float64_over_mini_batches(kind, dtype):
    check(kind, TWINS[kind], dtype, batch=3, heads=2, dim=16)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_in_float64_is_the_equations(kind):
    found = errors(TWINS[kind], make_case(kind, batch=3, heads=2, dim=16, dtype=torch.float64))
    assert all(error < 1e-6 for error in found.values()), found  # lr and eta are float32


@pytest.mark.parametrize("kind", KINDS)
def test_state_changes_at_the_end_of_a_mini_batch_only(kind):
    check_state_between_folds(kind, TWINS[kind], torch.float16, batch=2, heads=2, dim=16)


@pytest.mark.parametrize(("dtype", "scale"), EXTREMES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_large_and_tiny_inputs(kind, dtype, scale):
    check(kind, TWINS[kind], dtype, batch=2, heads=2, dim=64, scale=scale)


@pytest.mark.long
@pytest.mark.skipif(not CXX, reason="compiling for a CPU needs a C++ compiler")
@pytest.mark.parametrize(("kind", "dtype"), [("linear", torch.float32), ("mlp", torch.float16)], ids=str)
def test_a_compiled_step_gives_the_same_bits(kind, dtype):
    """Within a mini-batch and at its end, outputs and state: greedy tokens rest on it."""
    compiled = torch.compile(TWINS[kind], dynamic=False)
    cases = [make_case(kind, batch=16, heads=4, dim=64, dtype=dtype, tokens=18, seed=5) for _ in range(2)]
    for t in range(18):
        position = torch.tensor([t % SIZE], dtype=torch.int32)
        eager, other = (
            step(c.q[t], c.k[t], c.v[t], c.lr[t], c.eta, position, c.gamma, c.beta, *c.params, *c.slots)
            for step, c in zip((TWINS[kind], compiled), cases, strict=True)
        )
        assert torch.equal(eager, other)
    for one, two in zip(cases[0].params, cases[1].params, strict=True):
        assert torch.equal(one, two)

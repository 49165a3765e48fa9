"""Triton kernels in Triton's interpreter, on a CPU. Run by test_interpreter.py with TRITON_INTERPRET=1."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels.decode_cases import TOLERANCE, errors, make_case
from ttt_mlflow.kernels import reference, stages
from ttt_mlflow.kernels.ttt_linear_decode import linear_decode
from ttt_mlflow.kernels.ttt_mlp_decode import mlp_decode

STEPS: dict[str, Callable[..., Tensor]] = {"linear": linear_decode, "mlp": mlp_decode}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("dim", [64, 96])
@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_decode_matches_float64(layer_type, dim, dtype):
    found = errors(STEPS[layer_type], make_case(layer_type, batch=1, heads=2, dim=dim, dtype=dtype, tokens=18))
    assert all(error < TOLERANCE[dtype] for error in found.values()), found


def twins(name, *arguments):
    """The Triton function and its twin on the same arguments, each with its own copies; all that they wrote."""
    results = []
    for module in (stages, reference):
        copies = [a.clone() if torch.is_tensor(a) and a.is_contiguous() else a for a in arguments]
        out = getattr(module, name)(*copies)
        results.append([*(out if isinstance(out, tuple) else [out]), *(c for c in copies if torch.is_tensor(c))])
    return results


def check_twins(name, *arguments):
    for mine, theirs in zip(*twins(name, *arguments), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("position", [0, 1, 6, 15])
def test_stages_match_their_twins(dtype, position):
    batch, heads, dim = 3, 3, 24
    width = heads * dim

    def x(*shape):
        return torch.randn(shape).to(dtype)

    now = torch.tensor([position], dtype=torch.int32)
    check_twins("add_rms_norm", x(batch, width), x(batch, width), x(width))
    weights = (x(width), x(4, width), x(width), x(width))
    check_twins("conv_rms_norm", x(batch, width), x(batch, width), x(batch, 4, width), now, *weights)
    projected = x(batch, 2 * width + heads)
    table = torch.randn(16, dim // 2)
    check_twins(
        "qk_conv_rotary", projected[:, :width], projected[:, -heads:], x(batch, 4, width), now,
        x(4, width), x(width), x(4, width), x(width), x(heads), table.cos(), table.sin(), 0.5,
    )  # fmt: skip
    check_twins("gated_layer_norm", x(batch, width), projected[:, width : 2 * width], x(width), x(width))
    check_twins("swiglu", x(batch, 2 * 1100))

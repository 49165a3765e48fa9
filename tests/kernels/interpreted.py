"""Triton kernels in Triton's interpreter, on a CPU. Run by test_interpreter.py with TRITON_INTERPRET=1."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels.decode_cases import TOLERANCE, errors, make_case
from ttt_mlflow.kernels import reference, stages
from ttt_mlflow.kernels.ttt_linear_accumulate import linear_accumulate
from ttt_mlflow.kernels.ttt_linear_decode import linear_decode
from ttt_mlflow.kernels.ttt_mlp_accumulate import mlp_accumulate
from ttt_mlflow.kernels.ttt_mlp_decode import mlp_decode
from ttt_mlflow.models.registry import ModelRequest
from ttt_mlflow.models.ttt.sizes import build

STEPS: dict[str, Callable[..., Tensor]] = {
    "linear": linear_decode,
    "mlp": mlp_decode,
    "linear_accumulate": linear_accumulate,
    "mlp_accumulate": mlp_accumulate,
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("dim", [64, 96])
@pytest.mark.parametrize("kind", STEPS)
def test_decode_matches_float64(kind, dim, dtype):
    found = errors(STEPS[kind], make_case(kind, batch=1, heads=2, dim=dim, dtype=dtype, tokens=18))
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


@pytest.mark.parametrize("inner_net", ["mlp_1_dual_triton", "mlp_2_dual_triton"])
def test_a_prompt_leads_to_the_same_state_either_way(inner_net):
    request = ModelRequest("ttt-tiny", inner_net, torch.float32, torch.device("cpu"), 0, None)
    model = build(request)
    prompt = torch.randint(model.vocab_size, (2, 18))
    at_once, by_token = model.new_state(2), model.new_state(2)
    logits = model.prefill(prompt, at_once)
    for token in prompt.unbind(1):
        expected = model.step(token, by_token)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    for one, other in zip(at_once.layers, by_token.layers, strict=True):
        for a, b in zip((*one.inner, one.conv, one.qk_conv), (*other.inner, other.conv, other.qk_conv), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

"""The peers' kernels in Triton's interpreter, on a CPU. Run by test_interpreter.py with TRITON_INTERPRET=1."""

import pytest
import torch

from tests.kernels.peer_cases import check_all, check_delta, check_rwkv7
from ttt_mlflow.kernels.gated_delta import decode as gated_delta
from ttt_mlflow.kernels.rwkv7 import decode as rwkv7


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.long)], ids=str)
def test_every_kernel_matches_float64(dtype):
    check_all(gated_delta, rwkv7, dtype)


def test_the_models_own_heads():
    check_delta(gated_delta, torch.float16, 1, heads=1, groups=1, keys=256, values=512, tokens=2)
    check_rwkv7(rwkv7, torch.float16, 1, heads=2, dim=64, first_layer=False, tokens=2)


def test_what_a_kernel_would_read_wrongly_is_refused():
    x, logits, group = torch.zeros(2, 80), torch.zeros(2, 1), torch.zeros(1)
    step = gated_delta.gated_delta_step
    with pytest.raises(ValueError, match="state is float16, expected float32"):
        step(x, logits, logits, group, group, torch.zeros(2, 1, 16, 32, dtype=torch.float16))
    with pytest.raises(
        ValueError, match=r"qkv has shape \(2, 80\), which holds no q and k for a state \(2, 1, 40, 32\)"
    ):
        step(x, logits, logits, group, group, torch.zeros(2, 1, 40, 32))
    with pytest.raises(ValueError, match="key dimension of at most 256"):
        step(x, logits, logits, group, group, torch.zeros(2, 1, 16, 512))
    with pytest.raises(ValueError, match="head dimension of at most 64"):
        rwkv7.rwkv7_step(x, x, x, None, x, x, x, x, x, torch.zeros(2, 1, 128, 128), 1e-5)
    with pytest.raises(ValueError, match="ring has shape"):
        gated_delta.short_conv(x, torch.zeros(2, 3, 80), torch.zeros(1, dtype=torch.int32), torch.zeros(4, 80))


def test_compiled_code_has_the_same_operators():
    """As torch.compile sees them: what they write to, and the shapes of what they return."""

    def delta(x, ring, position, taps, gate, weight, decay, a_log, dt_bias, state):
        qkv = gated_delta.short_conv(x, ring, position, taps)
        out = gated_delta.gated_delta_step(qkv, decay, decay, a_log, dt_bias, state)
        return gated_delta.gated_rms_norm(out, gate, weight, 1e-6)

    def mixing(hidden, previous, weight, mix, low, low_bias, first, state):
        hidden, mixed = rwkv7.shift_mix(hidden, hidden, previous, weight, weight, mix, 1e-5)
        low = low * 2
        rwkv7.rank_activations(low)
        start = rwkv7.rwkv7_step(mixed[:3], low, low_bias, None, weight, weight, weight, weight, weight, state, 1e-3)
        return start + rwkv7.rwkv7_step(
            mixed[:3].clone(), low, low_bias, first, weight, weight, weight, weight, weight, state, 1e-3
        )

    x = torch.randn
    cases = (
        (delta, x(2, 160), x(2, 4, 160), torch.zeros(1, dtype=torch.int32), x(4, 160), x(2, 32), x(32), x(2, 1), x(1),
         x(1), x(2, 1, 32, 64)),
        (mixing, x(2, 64), x(2, 64), x(64), x(6, 64), x(4, 2, 64), x(4, 64), x(2, 64), x(2, 2, 32, 32)),
    )  # fmt: skip
    for function, *arguments in cases:
        eager, compiled = ([one.clone() for one in arguments] for _ in range(2))
        out = function(*eager)
        assert torch.equal(torch.compile(function, backend="aot_eager", fullgraph=True)(*compiled), out)
        for one, other, before in zip(eager, compiled, arguments, strict=True):
            assert torch.equal(one, other)
            assert one is not before
        assert not torch.equal(eager[-1], arguments[-1]), "the state was updated"

"""Random decode steps of the peers' layers for any implementation, and their error against float64.

The float64 side is written here a second time, sequence by sequence and head by head, without the twins' functions.
"""

import math
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.decode_cases import poisoned_memory, relative_error

# a 16-bit output is rounded once, the float32 state never
OUT = {torch.float16: 5e-4, torch.bfloat16: 4e-3, torch.float32: 5e-6}
STATE = 5e-6
NORM_EPS = 1e-5


def rows(shape: tuple[int, int], dtype: torch.dtype, device: str) -> Tensor:
    """Random rows that are not adjacent in memory, as those of a fused projection."""
    return torch.randn(shape[0], shape[1] + 24, device=device).to(dtype)[:, 8 : 8 + shape[1]]


def normal(*shape: int, dtype: torch.dtype, device: str, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape, device=device)).to(dtype)


def check_delta(
    functions: ModuleType,
    dtype: torch.dtype,
    batch: int,
    heads: int,
    groups: int,
    keys: int,
    values: int,
    tokens: int = 3,
    device: str = "cpu",
) -> None:
    """Some tokens through ``gated_delta_step`` of ``functions``; heads of the keys, groups: heads of the values."""
    width = 2 * heads * keys + groups * values
    a_log, dt_bias = torch.rand(groups, device=device).mul(16).log(), torch.randn(groups, device=device)
    state = torch.randn(batch, groups, values, keys, device=device)
    exact = state.double()
    for _ in range(tokens):
        qkv = normal(batch, width, dtype=dtype, device=device)
        decay, beta = rows((batch, groups), dtype, device), rows((batch, groups), dtype, device)
        with poisoned_memory():
            out = functions.gated_delta_step(qkv, decay, beta, a_log, dt_bias, state)
        expected = torch.empty(batch, groups, values, dtype=torch.float64, device=device)
        for b in range(batch):
            for g in range(groups):
                h = g // (groups // heads)
                q, k = (qkv[b, (part * heads + h) * keys :][:keys].double() for part in (0, 1))
                v = qkv[b, 2 * heads * keys + g * values :][:values].double()
                q, k = (x / math.sqrt(float(x @ x) + 1e-6) for x in (q, k))
                alpha = math.exp(-math.exp(a_log[g]) * float(F.softplus(decay[b, g].double() + dt_bias[g].double())))
                s = exact[b, g] * alpha
                s = s + float(beta[b, g].double().sigmoid()) * torch.outer(v - s @ k, k)
                exact[b, g] = s
                expected[b, g] = s @ q / math.sqrt(keys)
        assert out.dtype == dtype
        assert relative_error(out, expected.flatten(1)) < OUT[dtype]
        assert relative_error(state, exact) < STATE


def check_conv(functions: ModuleType, dtype: torch.dtype, batch: int, width: int, device: str = "cpu") -> None:
    """Six tokens through ``short_conv``, so that every slot is written and one is written again."""
    taps = normal(4, width, dtype=dtype, device=device)
    ring = torch.zeros(batch, 4, width, dtype=dtype, device=device)
    position = torch.zeros(1, dtype=torch.int32, device=device)
    inputs = [torch.zeros(batch, width, dtype=torch.float64, device=device)] * 3
    for _ in range(6):
        x = rows((batch, width), dtype, device)
        inputs.append(x.double())
        with poisoned_memory():
            out = functions.short_conv(x, ring, position, taps)
        total = sum(tap * taps[i].double() for i, tap in enumerate(inputs[-4:]))
        assert isinstance(total, Tensor)
        assert relative_error(out, total * total.sigmoid()) < OUT[dtype]
        position.add_(1).remainder_(4)


def check_gated_norm(functions: ModuleType, dtype: torch.dtype, batch: int, device: str = "cpu") -> None:
    groups, values = 3, 48
    x, gate = normal(batch, groups * values, dtype=dtype, device=device), rows((batch, groups * values), dtype, device)
    weight = normal(values, dtype=dtype, device=device)
    with poisoned_memory():
        out = functions.gated_rms_norm(x, gate, weight, NORM_EPS)
    wide = x.double().view(batch, groups, values)
    normed = wide / torch.sqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS) * weight.double()
    assert relative_error(out, (normed * F.silu(gate.double().view_as(normed))).flatten(1)) < OUT[dtype]


def check_rwkv7(
    functions: ModuleType,
    dtype: torch.dtype,
    batch: int,
    heads: int,
    dim: int,
    first_layer: bool,
    tokens: int = 3,
    device: str = "cpu",
) -> None:
    """Some tokens through ``rwkv7_step`` of ``functions``."""
    width, eps = heads * dim, dim * NORM_EPS

    def vector() -> Tensor:
        return normal(width, dtype=dtype, device=device)

    k_k, k_a, r_k, norm_weight, norm_bias = vector(), vector(), vector().view(heads, dim), vector(), vector()
    low_bias = normal(4, width, dtype=dtype, device=device)
    low_bias[3] = float("nan")  # the gate has none
    state = torch.randn(batch, heads, dim, dim, device=device)
    exact = state.double()
    for _ in range(tokens):
        rkv, low = (normal(count, batch, width, dtype=dtype, device=device) for count in (3, 4))
        first = None if first_layer else normal(batch, width, dtype=dtype, device=device)
        with poisoned_memory():
            out = functions.rwkv7_step(rkv, low, low_bias, first, k_k, k_a, r_k, norm_weight, norm_bias, state, eps)
        expected = torch.empty(batch, heads, dim, dtype=torch.float64, device=device)
        for b in range(batch):
            for h in range(heads):
                part = slice(h * dim, (h + 1) * dim)
                r, k, v = (x[b, part].double() for x in rkv)
                value, decay, rate = (low[i, b, part].double() + low_bias[i, part].double() for i in range(3))
                gate = low[3, b, part].double()
                if first is not None:
                    v = torch.lerp(v, first[b, part].double(), value.sigmoid())
                kappa = k * k_k[part].double()
                kappa = kappa / math.sqrt(float(kappa @ kappa) + 1e-6)
                k = k + k * (rate.sigmoid() - 1) * k_a[part].double()
                s = exact[b, h]
                shrunk = torch.exp(-math.exp(-0.5) * decay.sigmoid()).unsqueeze(1) * s
                s = shrunk - torch.outer(kappa * rate.sigmoid(), kappa @ s) + torch.outer(k, v)
                exact[b, h] = s
                y = F.group_norm((r @ s)[None], 1, norm_weight[part].double(), norm_bias[part].double(), eps)[0]
                expected[b, h] = (y + (r * k * r_k[h].double()).sum() * v) * gate
        assert out.dtype == dtype
        assert relative_error(out, expected.flatten(1)) < 2 * OUT[dtype]
        assert relative_error(state, exact) < STATE


def check_shift(functions: ModuleType, dtype: torch.dtype, batch: int, width: int, device: str = "cpu") -> None:
    """Three tokens through ``shift_mix``, with six mixtures and with one."""
    for mixtures in (6, 1):
        weight, bias = normal(width, dtype=dtype, device=device), normal(width, dtype=dtype, device=device)
        mix = normal(mixtures, width, dtype=dtype, device=device)
        previous = torch.zeros(batch, width, dtype=dtype, device=device)
        for _ in range(3):
            hidden, delta = (normal(batch, width, dtype=dtype, device=device) for _ in range(2))
            before = previous.double()
            with poisoned_memory():
                total, out = functions.shift_mix(hidden, delta, previous, weight, bias, mix, NORM_EPS)
            exact = (hidden.double() + delta.double()).to(dtype)
            x = F.layer_norm(exact.double(), (width,), weight.double(), bias.double(), NORM_EPS)
            assert relative_error(total, exact.double()) < OUT[dtype]
            assert relative_error(previous, x) < OUT[dtype]
            # the mixtures begin with the rounded norm
            assert relative_error(out, x + (before - x) * mix.double()[:, None]) < 2 * OUT[dtype]


def check_activations(functions: ModuleType, dtype: torch.dtype, batch: int, device: str = "cpu") -> None:
    low = normal(4, batch, 40, dtype=dtype, device=device, scale=3.0)
    before = low.clone()
    functions.rank_activations(low)
    assert torch.equal(low[0], before[0])
    assert torch.equal(low[2], before[2])
    assert relative_error(low[1], before[1].double().tanh()) < OUT[dtype]
    assert relative_error(low[3], before[3].double().sigmoid()) < OUT[dtype]


def check_all(delta: ModuleType, rwkv7: ModuleType, dtype: torch.dtype, device: str = "cpu") -> None:
    """Every function in small shapes: full blocks, partial blocks, key heads shared by value heads, one sequence."""
    check_delta(delta, dtype, 2, heads=2, groups=2, keys=32, values=16, device=device)
    check_delta(delta, dtype, 1, heads=1, groups=2, keys=24, values=20, device=device)
    check_conv(delta, dtype, 3, 72, device)
    check_conv(delta, dtype, 1, 1032, device)
    check_gated_norm(delta, dtype, 2, device)
    check_rwkv7(rwkv7, dtype, 2, heads=2, dim=32, first_layer=False, device=device)
    check_rwkv7(rwkv7, dtype, 1, heads=3, dim=24, first_layer=True, device=device)
    check_shift(rwkv7, dtype, 3, 72, device)
    check_shift(rwkv7, dtype, 1, 128, device)
    check_activations(rwkv7, dtype, 30, device)
    check_activations(rwkv7, dtype, 1, device)

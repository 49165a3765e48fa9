"""The peers' decode steps: twins against float64, and the Triton kernels' machine code for other GPUs."""

import pytest
import torch

from tests.kernels.cross_compile import cross_compile, resources
from tests.kernels.peer_cases import check_all
from ttt_mlflow.kernels.gated_delta import decode as gated_delta
from ttt_mlflow.kernels.gated_delta import reference as gated_delta_reference
from ttt_mlflow.kernels.launch import options_for
from ttt_mlflow.kernels.rwkv7 import decode as rwkv7
from ttt_mlflow.kernels.rwkv7 import reference as rwkv7_reference

# of the models of 1.3e9 parameters
DELTA = {"HEADS": 6, "GROUPS": 6, "KEYS": 256, "VALUES": 512, "BLOCK": 256, "ROWS": gated_delta.ROWS}
RWKV7 = {"HEADS": 32, "HEAD_DIM": 64, "BLOCK": 64, "LOG_DECAY": -0.6, "L2": 1e-6}
STAGES = [
    (gated_delta.short_conv_kernel, {"WIDTH": 6144, "BLOCKS": 6, "BLOCK": gated_delta.COLUMNS}, 4),
    (gated_delta.gated_rms_norm_kernel, {"GROUPS": 6, "WIDTH": 512, "BLOCK": 512}, 4),
    (rwkv7.shift_mix_kernel, {"MIXTURES": 6, "WIDTH": 2048, "BLOCK": 2048}, 8),
    (rwkv7.rank_activations_kernel, {"BLOCK": rwkv7.BLOCK, "DECAY_ROW": 1, "GATE_ROW": 3}, 4),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_twins_match_float64(dtype):
    check_all(gated_delta_reference, rwkv7_reference, dtype)


ELSEWHERE = [pytest.param(*case, marks=pytest.mark.long) for case in ((90, "bf16"), (80, "bf16"), (100, "bf16"))]


@pytest.mark.parametrize(("capability", "dtype"), [(90, "fp16"), (80, "fp16"), (100, "fp16"), *ELSEWHERE])
@pytest.mark.parametrize(
    ("kernel", "name", "size", "constants"),
    [
        (gated_delta.gated_delta_step_kernel, "gated_delta_step", 256, DELTA),
        (rwkv7.rwkv7_step_kernel, "rwkv7_step", 64, {**RWKV7, "FIRST": False}),
        pytest.param(
            rwkv7.rwkv7_step_kernel, "rwkv7_step", 64, {**RWKV7, "FIRST": True}, marks=pytest.mark.long, id="first"
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_steps_spill_nothing(kernel, name, size, constants, dtype, capability, capsys):
    options = options_for(name, divmod(capability, 10), torch.float32, size)
    found = resources(cross_compile(kernel, dtype, capability, constants, **options))
    with capsys.disabled():
        print(f"\n{name} {dtype} sm_{capability}: {found}")
    assert found.local_bytes == 0


@pytest.mark.parametrize("capability", [90, *(pytest.param(other, marks=pytest.mark.long) for other in (80, 100))])
@pytest.mark.parametrize(("kernel", "constants", "warps"), STAGES, ids=lambda value: getattr(value, "__name__", None))
def test_stages_spill_nothing(kernel, constants, warps, capability):
    assert resources(cross_compile(kernel, "fp16", capability, constants, num_warps=warps)).local_bytes == 0

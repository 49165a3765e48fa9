"""Every kernel compiles for sm_80, sm_90 and sm_100 without a GPU; on sm_90 the chosen options spill nothing."""

import pytest
import torch
import triton

from tests.kernels.cross_compile import cross_compile, resources
from ttt_mlflow.kernels.block import fused, prefill
from ttt_mlflow.kernels.launch import RESIDENT, options_for
from ttt_mlflow.kernels.persistent import launch as persistent
from ttt_mlflow.kernels.persistent.grid import PATIENCE
from ttt_mlflow.kernels.persistent.step import WEIGHTS, persistent_step_kernel
from ttt_mlflow.kernels.ttt_linear import accumulate as ttt_linear_accumulate
from ttt_mlflow.kernels.ttt_linear import decode as ttt_linear_decode
from ttt_mlflow.kernels.ttt_linear.decode_tensor_cores import linear_decode_tensor_kernel
from ttt_mlflow.kernels.ttt_linear.prefill_tensor_cores import linear_prefill_tensor_kernel
from ttt_mlflow.kernels.ttt_mlp import accumulate as ttt_mlp_accumulate
from ttt_mlflow.kernels.ttt_mlp import decode as ttt_mlp_decode
from ttt_mlflow.kernels.ttt_mlp.decode_tensor_cores import mlp_decode_tensor_kernel
from ttt_mlflow.kernels.ttt_mlp.prefill_tensor_cores import mlp_prefill_tensor_kernel

# bytes of a thread on the stack: addresses that do not change from layer to layer
WHOLE_STEPS = [
    ("linear", 1, 24),
    ("linear", 8, 56),
    ("linear", 16, 40),
    ("mlp", 1, 16),
    ("mlp", 8, 32),
    ("mlp", 16, 24),
]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
CAPABILITIES = (80, 90, 100)


def shape(name, dim, dtype):
    constants = {"HEAD_DIM": dim, "BLOCK": triton.next_power_of_2(dim)}
    if name == "ttt_mlp_decode":
        return constants | {constant: getattr(ttt_mlp_decode, constant) for constant in ("TILE", "STAGES", "CHUNK")}
    if name == "ttt_mlp_accumulate":
        return constants | dict(zip(("TILE", "STAGES"), ttt_mlp_accumulate.tiles(dim, dtype), strict=True))
    return constants


def compiled(kernel, name, dtype, capability, dim):
    options = options_for(name, divmod(capability, 10), DTYPES[dtype], dim)
    return cross_compile(kernel, dtype, capability, shape(name, dim, DTYPES[dtype]), **options)


def check_spills(kernel, name, dtype, dim, capability, capsys):
    found = resources(compiled(kernel, name, dtype, capability, dim))
    with capsys.disabled():
        print(f"\n{name} {dtype} F={dim} sm_{capability}: {found}")
    assert found.shared_bytes <= 163 * 1024  # what a program may have on sm_80
    if capability == 90:
        assert found.local_bytes == 0


@pytest.mark.parametrize(("capability", "overlap"), [(80, False), (90, False), (90, True), (100, True)])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        (linear_decode_tensor_kernel, "ttt_linear_decode_tensor"),
        (mlp_decode_tensor_kernel, "ttt_mlp_decode_tensor"),
    ],
)
def test_tensor_core_kernels(kernel, name, dtype, capability, overlap, capsys):
    options = options_for(name, divmod(capability, 10), DTYPES[dtype], 64)
    found = resources(cross_compile(kernel, dtype, capability, {"OVERLAP": overlap}, launch_pdl=overlap, **options))
    with capsys.disabled():
        print(f"\n{name} {dtype} sm_{capability} overlap={overlap}: {found}")
    most, shared_bytes = RESIDENT[name]
    assert found.shared_bytes <= shared_bytes  # the number of programs follows from it
    if capability == 90:
        assert found.local_bytes == 0
        registers = 8 * -(-found.registers // 8)  # handed out in eights
        assert most * options["num_warps"] * 32 * registers <= 64 * 1024  # all programs' registers fit


# spilled bytes of a thread on sm_90: the state of TTT-MLP alone takes half of its registers
PREFILL = [
    (linear_prefill_tensor_kernel, "ttt_linear_prefill_tensor", 2, 16),
    (linear_prefill_tensor_kernel, "ttt_linear_prefill_tensor", 4, 0),
    (mlp_prefill_tensor_kernel, "ttt_mlp_prefill_tensor", 8, 288),
]


@pytest.mark.parametrize(("capability", "dtype"), [(80, "fp16"), (90, "fp16"), (90, "bf16"), (100, "fp16")])
@pytest.mark.parametrize(("kernel", "name", "warps", "spilled"), PREFILL, ids=str)
def test_tensor_core_kernels_of_a_prompt(kernel, name, warps, spilled, dtype, capability, capsys):
    found = resources(cross_compile(kernel, dtype, capability, {"W": warps, "STAGES": 4}, num_warps=warps))
    with capsys.disabled():
        print(f"\n{name} {dtype} sm_{capability} {warps} warps: {found}")
    assert found.shared_bytes <= RESIDENT[name][1]
    if capability == 90:
        assert found.local_bytes <= spilled


GENERAL = [("fp32", 64), *((dtype, dim) for dtype in DTYPES for dim in (96, 128)), ("fp16", 32), ("bf16", 40)]
ACCUMULATING = [(dtype, dim) for dtype in DTYPES for dim in (64, 96, 128)]


@pytest.mark.parametrize(
    ("capability", "dtype", "dim"),
    [(90, *GENERAL[0]), (90, "fp16", 96)]
    + [pytest.param(90, *case, marks=pytest.mark.long) for case in GENERAL[1:] if case != ("fp16", 96)]
    + [
        pytest.param(other, *case, marks=pytest.mark.long)
        for other in (80, 100)
        for case in (("fp32", 64), ("fp16", 96))
    ],
)
@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        (ttt_linear_decode.linear_decode_kernel, "ttt_linear_decode"),
        (ttt_mlp_decode.mlp_decode_kernel, "ttt_mlp_decode"),
    ],
)
def test_general_kernels(kernel, name, dtype, dim, capability, capsys):
    """With the tensor-core kernels these are all configurations of the rank-1 form."""
    check_spills(kernel, name, dtype, dim, capability, capsys)


@pytest.mark.parametrize(
    ("capability", "dtype", "dim"),
    [(90, "fp16", 64)]
    + [pytest.param(90, *case, marks=pytest.mark.long) for case in ACCUMULATING if case != ("fp16", 64)]
    + [pytest.param(other, "fp16", dim, marks=pytest.mark.long) for other in (80, 100) for dim in (64, 96)],
)
@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        (ttt_linear_accumulate.linear_accumulate_kernel, "ttt_linear_accumulate"),
        (ttt_mlp_accumulate.mlp_accumulate_kernel, "ttt_mlp_accumulate"),
    ],
)
def test_accumulating_kernels(kernel, name, dtype, dim, capability, capsys):
    check_spills(kernel, name, dtype, dim, capability, capsys)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    "kernel",
    [
        fused._add_rms_norm_kernel,
        fused._conv_rms_norm_kernel,
        fused._qk_conv_rotary_kernel,
        fused._gated_layer_norm_kernel,
        fused._swiglu_kernel,
    ],
    ids=lambda kernel: kernel.fn.__name__,
)
def test_stages(kernel, capability):
    constants = {"WIDTH": 2048, "BLOCK": 2048, "HEAD_DIM": 64, "HEADS_BLOCK": 32, "OVERLAP": capability >= 90}
    found = resources(cross_compile(kernel, "fp16", capability, constants, num_warps=4))
    assert found.local_bytes == 0


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("kernel", "warps", "registers"),
    [
        (prefill.conv_rms_norm_kernel, 8, 128),
        (prefill.qk_conv_rotary_kernel, 2, None),
        (prefill.gated_layer_norm_kernel, 8, None),
        (prefill.rms_norm_kernel, 8, None),
        (prefill.swiglu_kernel, 4, None),
    ],
    ids=lambda value: value.fn.__name__ if hasattr(value, "fn") else str(value),
)
def test_stages_of_a_prompt(kernel, warps, registers, capability):
    constants = {
        "WIDTH": 2048, "BLOCK": 2048, "HEAD_DIM": 64, "HEADS_BLOCK": 32, "COLUMNS": prefill.COLUMNS,
        "ROWS": prefill.ROWS, "TOKENS": prefill.TOKENS,
    }  # fmt: skip
    options = {"num_warps": warps} | ({"maxnreg": registers} if registers else {})
    found = resources(cross_compile(kernel, "fp16", capability, constants, **options))
    assert found.local_bytes <= (16 if registers else 0)  # faster with two programs on a multiprocessor, despite it


def compile_step(kind, batch, dtype, capability):
    tuning = persistent.Tuning.of(batch)
    together = 1 if kind == "mlp" else persistent.heads_together(batch * 32, 32, 132)
    constants = {
        "LAYERS": 24, "COLUMNS": len(WEIGHTS) + (8 if kind == "mlp" else 4), "WIDTH": 2048, "INTERMEDIATE": 5504,
        "HEAD_DIM": 64, "PROJECTED": 6208, "VOCAB": 50277, "PADDED_VOCAB": 50304, "BATCH": 8 if batch <= 8 else 16,
        "BLOCK": 2048, "SPAN": tuning.span, "SPAN_DOWN": tuning.span_down, "EARLY": tuning.early, "GRID": 132,
        "WARPS": persistent.WARPS, "PROGRAMS": 256, "REDUNDANT": tuning.redundant,
        "MLP": kind == "mlp", "CHUNK": persistent.CHUNK, "PATIENCE": PATIENCE, "TIMELINE": False,
        "SEQUENCES": batch if tuning.redundant else 1, "TOGETHER": together,
        "ROUNDS": -(-batch * 32 // (132 * together)),
    }  # fmt: skip
    options = {"num_warps": persistent.WARPS, "launch_cooperative_grid": True}
    return cross_compile(persistent_step_kernel, dtype, capability, constants, **options)


@pytest.mark.parametrize(
    ("kind", "batch", "spilled"),
    [WHOLE_STEPS[0], *(pytest.param(*case, marks=pytest.mark.long) for case in WHOLE_STEPS[1:])],
    ids=str,
)
def test_a_whole_step(kind, batch, spilled, capsys):
    compiled = compile_step(kind, batch, "fp16", 90)
    found = resources(compiled)
    with capsys.disabled():
        print(f"\nwhole step, {kind}, batch {batch}: {found}")
    assert found.local_bytes <= spilled
    assert found.registers * persistent.WARPS * 32 <= 64 * 1024  # a program's registers fit, as all must be resident
    # a weight is loaded 16 bytes at a time, and goes to the tensor cores without shared memory or another thread
    weights = [line for line in compiled.asm["ptx"].splitlines() if "evict_first" in line and "ld.global" in line]
    assert weights
    assert all(".v4.b32" in line for line in weights)
    assert "mma.sync.aligned.m16n8k16" in compiled.asm["ptx"]
    assert compiled.metadata.shared < 64 * 1024  # the tiles of weights would not even fit


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "capability"), [("bf16", 90), ("fp16", 80), ("fp16", 100)])
def test_a_whole_step_elsewhere(dtype, capability):
    resources(compile_step("mlp", 1, dtype, capability))

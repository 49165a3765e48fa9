"""Every kernel compiles for sm_80, sm_90 and sm_100 without a GPU; on sm_90 the chosen options spill nothing."""

import pytest
import torch
import triton

from tests.kernels.cross_compile import cross_compile, machine_code, resources
from ttt_mlflow.kernels.block import fused, prefill
from ttt_mlflow.kernels.launch import RESIDENT, options_for
from ttt_mlflow.kernels.overlapped import stages
from ttt_mlflow.kernels.overlapped.launch import NORMED_REGISTERS, Tuning
from ttt_mlflow.kernels.overlapped.normed import add_norm_product_kernel
from ttt_mlflow.kernels.overlapped.product import product_kernel
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
        fused.add_rms_norm_kernel,
        fused.conv_rms_norm_kernel,
        fused.qk_conv_rotary_kernel,
        fused.gated_layer_norm_kernel,
        fused.swiglu_kernel,
    ],
    ids=lambda kernel: kernel.fn.__name__,
)
def test_stages(kernel, capability):
    constants = {
        "WIDTH": 2048, "BLOCK": 2048, "HEAD_DIM": 64, "HEADS_BLOCK": 32, "PARTS": 1,
        "RELEASE": capability >= 90, "OVERLAP": False,
    }  # fmt: skip
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
    return cross_compile(
        persistent_step_kernel, dtype, capability, constants, num_warps=persistent.WARPS, launch_cooperative_grid=True
    )


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


# kernels of a step that overlap: rows, columns, what they keep, and spilled bytes
PRODUCTS = [
    ("projection", 6208, 2048, {}),
    ("output projection", 2048, 2048, {"PARTIAL": True}),
    ("gate and up", 11008, 2048, {"GATED": True}),
    ("down projection", 2048, 5504, {"PARTIAL": True}),
    ("head", 50304, 2048, {"BEST": True}),
]


def compile_product(n, k, kind, batch, capability, overlap=True, dtype="fp16", ahead=0):
    tuning = Tuning.of(is_mlp=False)
    constants = {
        "N": n, "K": k, "BATCH": batch, "COLUMNS": tuning.columns if "PARTIAL" in kind else k,
        "SPAN": tuning.span_of(k), "WARPS": tuning.warps, "SIXTEENS": tuning.sixteens, "OVERLAP": overlap,
        "PARTIAL": False, "GATED": False, "BEST": False, "AHEAD": ahead, **kind,
    }  # fmt: skip
    types = {"out": "*fp32"} if "PARTIAL" in kind else {}
    return cross_compile(
        product_kernel, dtype, capability, constants, types=types, num_warps=tuning.warps, launch_pdl=overlap,
        maxnreg=tuning.registers,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("product", "batch"),
    [
        *((PRODUCTS[number], 8) for number in (2, 3)),
        *(pytest.param(PRODUCTS[number], 8, marks=pytest.mark.long) for number in (0, 1, 4)),
        *(pytest.param(product, 16, marks=pytest.mark.long) for product in PRODUCTS),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_products_that_overlap(product, batch, capsys):
    name, n, k, kind = product
    compiled = compile_product(n, k, kind, batch, 90)
    found = resources(compiled)
    with capsys.disabled():
        print(f"\n{name}, up to {batch} sequences: {found}")
    assert found.local_bytes == 0
    assert 2 * found.registers * compiled.metadata.num_warps * 32 <= 64 * 1024  # two programs on a multiprocessor
    check_requests_come_first(compiled)
    weights = [name for name in machine_code(compiled) if name.startswith("LDG") and ".EF" in name]
    assert set(weights) == {"LDG.E.EF.128"}
    assert "mma.sync.aligned.m16n8k16" in compiled.asm["ptx"]


@pytest.mark.long
def test_a_product_that_norms_its_input(capsys):
    tuning = Tuning.of(is_mlp=False)
    constants = {
        "N": 11008, "K": 2048, "BATCH": 8, "SPAN": tuning.span, "WARPS": tuning.warps, "SIXTEENS": tuning.sixteens,
        "GATED": True, "BLOCK": 2048, "AHEAD": 0, "OVERLAP": True,
    }  # fmt: skip
    options = {"num_warps": tuning.warps, "launch_pdl": True, "maxnreg": NORMED_REGISTERS}
    compiled = cross_compile(add_norm_product_kernel, "fp16", 90, constants, None, **options)
    found = resources(compiled)
    with capsys.disabled():
        print(f"\na product that norms its input: {found}")
    assert found.local_bytes <= 32
    check_requests_come_first(compiled)


@pytest.mark.long
def test_a_product_that_lets_the_cache_read_ahead():
    for _, n, k, kind in PRODUCTS:
        compiled = compile_product(n, k, kind, 8, 90, ahead=264)
        code = machine_code(compiled)
        asked = [place for place, name in enumerate(code) if name.startswith("CCTL")]
        assert len(asked) == 2, "512 lines by 256 threads"
        assert max(asked) < code.index("ACQBULK")
        assert resources(compiled).local_bytes == 0


def check_requests_come_first(compiled):
    """Weights and state are requested, then the next kernel is let go, and only then this one waits for its inputs."""
    code = machine_code(compiled)
    release, wait = code.index("PREEXIT"), code.index("ACQBULK")
    assert release < wait
    assert [name for name in code[:release] if name.startswith("LDG")], "it requests nothing"
    assert not [name for name in code[wait:] if ".EF" in name], "it requests weights after it waited"
    assert not [name for name in code[:wait] if name.startswith(("STG", "RED", "ATOM"))], "it writes before it waits"
    assert not [name for name in code[:wait] if name.startswith("HMMA")], "it waits for its weights first"


STAGES: list[tuple[object, dict[str, object], int]] = [
    (fused.conv_rms_norm_kernel, {"PARTS": 3}, 8),
    (fused.gated_layer_norm_kernel, {}, 8),
    (fused.add_rms_norm_kernel, {"PARTS": 3}, 8),
    (stages.heads_kernel, {"PROJECTED": 6208, "MLP": False, "TOGETHER": 1, "WARPS": 4}, 4),
    (stages.heads_kernel, {"PROJECTED": 6208, "MLP": True, "TOGETHER": 1, "WARPS": 8, "CHUNK": 32}, 8),
]


def compile_stage(kernel, constants, warps, capability, overlap=True, dtype="fp16"):
    constants = {"WIDTH": 2048, "BLOCK": 2048, "HEAD_DIM": 64, "OVERLAP": overlap, **constants}
    types = {"delta": "*fp32", "count": "i32"}
    return cross_compile(kernel, dtype, capability, constants, types=types, num_warps=warps, launch_pdl=overlap)


@pytest.mark.parametrize(
    ("kernel", "constants", "warps"),
    [*STAGES[:2], *(pytest.param(*stage, marks=pytest.mark.long) for stage in STAGES[2:])],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_stages_that_overlap(kernel, constants, warps, capsys):
    compiled = compile_stage(kernel, constants, warps, 90)
    found = resources(compiled)
    with capsys.disabled():
        print(f"\n{kernel.__name__} {constants}: {found}")
    assert found.local_bytes == 0
    check_requests_come_first(compiled)


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "capability", "overlap"), [("bf16", 90, True), ("fp16", 80, False), ("fp16", 100, True)]
)
def test_kernels_that_overlap_elsewhere(dtype, capability, overlap):
    for _, n, k, kind in PRODUCTS:
        resources(compile_product(n, k, kind, 8, capability, overlap, dtype))
    for stage in STAGES:
        resources(compile_stage(*stage, capability, overlap, dtype))
    others = {"BATCH": 8, "COUNT": 4096}
    for kernel in (stages.embedding_kernel, stages.sampling_kernel):
        resources(compile_stage(kernel, others, 8, capability, overlap, dtype))

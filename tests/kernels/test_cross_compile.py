"""Every kernel compiles for sm_80, sm_90 and sm_100 without a GPU; on sm_90 the chosen options spill nothing."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
import triton
from triton.experimental.gluon import language as gl

from tests.kernels.cross_compile import cross_compile, machine_code, resources
from ttt_mlflow.kernels.block import fused, prefill
from ttt_mlflow.kernels.launch import RESIDENT, options_for
from ttt_mlflow.kernels.overlapped import stages
from ttt_mlflow.kernels.overlapped.product import product_kernel
from ttt_mlflow.kernels.overlapped.staged import staged_product_kernel
from ttt_mlflow.kernels.overlapped.tuning import (
    HALF,
    HALVES,
    PAIR,
    SHARED_BYTES,
    STAGED,
    TABLE,
    THIRDS,
    WIDE,
    Model,
    padded_batch,
)  # fmt: skip
from ttt_mlflow.kernels.ttt_linear import accumulate as ttt_linear_accumulate
from ttt_mlflow.kernels.ttt_linear import decode as ttt_linear_decode
from ttt_mlflow.kernels.ttt_linear.decode_tensor_cores import linear_decode_tensor_kernel
from ttt_mlflow.kernels.ttt_linear.prefill_tensor_cores import linear_prefill_tensor_kernel
from ttt_mlflow.kernels.ttt_mlp import accumulate as ttt_mlp_accumulate
from ttt_mlflow.kernels.ttt_mlp import decode as ttt_mlp_decode
from ttt_mlflow.kernels.ttt_mlp.decode_tensor_cores import mlp_decode_tensor_kernel
from ttt_mlflow.kernels.ttt_mlp.prefill_tensor_cores import mlp_prefill_tensor_kernel

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


# products of kernels that overlap: rows, columns, and what they keep
PROJECTION, OUTPUT, GATE_UP, DOWN, HEAD = PRODUCTS = [
    (6208, 2048, {}),
    (2048, 2048, {"PARTIAL": True}),
    (11008, 2048, {"GATED": True}),
    (2048, 5504, {"PARTIAL": True}),
    (50304, 2048, {"BEST": True}),
]
SHARED_KV_DOWN = (2048, 6528, {"PARTIAL": True})  # of a transformer with shared KV heads
TILINGS = {
    "wide": WIDE, "half": HALF, "pair": PAIR,
    "most": replace(PAIR, tiles=3), "most down": replace(WIDE, tiles=2),
    "halves": HALVES, "thirds": THIRDS,
}  # fmt: skip
SPILLED = 64  # bytes of a thread at most: requests that the memory answers come first, registers second
WEIGHTS_16, WAIT, RELEASE = "LDG.E.EF.128", "ACQBULK", "PREEXIT"


def compile_product(product, tiling, batch, capability, overlap=True, dtype="fp16"):
    n, k, kind = product
    constants = {
        "N": n, "K": k, "BATCH": batch, "COLUMNS": tiling.columns if "PARTIAL" in kind else k,
        "SPAN": tiling.span_of(k), "WARPS": tiling.warps, "HELD": tiling.tiles, "FLIGHT": tiling.flight,
        "OVERLAP": overlap, "PARTIAL": False, "GATED": False, "BEST": False, **kind,
    }  # fmt: skip
    types = {"out": "*fp32"} if "PARTIAL" in kind else {}
    return cross_compile(
        product_kernel, dtype, capability, constants, types=types, num_warps=tiling.warps, launch_pdl=overlap,
        maxnreg=tiling.registers,
    )  # fmt: skip


def test_the_tilings_that_are_compiled_are_those_of_the_table():
    used = [tuning for row in TABLE.values() for tuning in row]
    found = {getattr(one, name) for one in used for name in ("projection", "output", "gate_up", "down", "head")}
    assert found == set(TILINGS.values())


def loads_of_a_tile(tiling):
    """16-byte loads of a thread."""
    return 16 * tiling.span * 2 // (16 * tiling.warps * 32)


def products_to_compile():
    """Of the 16 sequences that a product takes at most, one product a tiling; of 8 of a gated and of another one."""
    quick = [
        ("wide", PROJECTION), ("half", OUTPUT), ("pair", GATE_UP), ("most", GATE_UP), ("most down", DOWN),
        ("halves", DOWN), ("thirds", SHARED_KV_DOWN),
    ]  # fmt: skip
    others = [("wide", GATE_UP), ("wide", DOWN), ("wide", HEAD), ("pair", PROJECTION), ("pair", HEAD)]
    for name, product in (*quick, *others):
        for batch in (8, 16):
            is_quick = (name, product) in quick and (batch == 16 or name in ("wide", "pair"))
            yield pytest.param(name, product, batch, marks=[] if is_quick else pytest.mark.long)


@pytest.mark.parametrize(("name", "product", "batch"), [*products_to_compile()], ids=str)
def test_products_that_overlap(name, product, batch, capsys):
    tiling = TILINGS[name]
    compiled = compile_product(product, tiling, batch, 90)
    found = resources(compiled)
    with capsys.disabled():
        print(f"\n{name}, {product}, up to {batch} sequences: {found}")
    assert found.local_bytes <= SPILLED
    assert 2 * found.registers * tiling.warps * 32 <= 64 * 1024, "two programs on a multiprocessor"
    code = machine_code(compiled)
    weights = [place for place, name in enumerate(code) if name.startswith("LDG") and ".EF" in name]
    assert {code[place] for place in weights} == {WEIGHTS_16}, "16 bytes at a time"
    assert "HMMA.16816.F32" in code

    # the next kernel is let go; all tiles that are held are requested; then this kernel waits, reads x, and multiplies
    early = [place for place in weights if place < code.index(WAIT)]
    each = loads_of_a_tile(tiling)
    assert len(early) == tiling.tiles * each
    assert code.index(RELEASE) < early[0]
    rows = [place for place, name in enumerate(code) if name.startswith("LDG") and place > code.index(WAIT)]
    assert rows
    assert rows[0] < code.index("HMMA.16816.F32")
    check_requests_come_first(compiled)

    # a tile is requested when the one before has come: its addresses are computed from that one's values
    for tile in range(1, tiling.tiles):
        between = code[early[tile * each - 1] : early[tile * each]]
        assert [name for name in between if name.startswith("LOP3")], f"tile {tile} does not wait for the one before"


def test_tiles_that_may_be_on_their_way_together():
    tiling = replace(WIDE, flight=4)
    code = machine_code(compile_product(PROJECTION, tiling, 8, 90))
    weights = [place for place, name in enumerate(code) if name == WEIGHTS_16]
    assert not [name for name in code[weights[0] : weights[-1]] if name.startswith("LOP3")]


STAGED_PRODUCTS = {"projection": PROJECTION, "output": OUTPUT, "gate_up": GATE_UP, "down": DOWN, "head": HEAD}


def compile_staged(product, tiling, batch, dtype="fp16"):
    n, k, kind = product
    rows = tiling.rows // 2 if "GATED" in kind else tiling.rows

    def blocks(height):
        layout = gl.NVMMASharedLayout.get_default_for([height, tiling.step], gl.float16)
        return f"tensordesc<{dtype}[{height},{tiling.step}],{layout!r}>"

    constants = {
        "N": n, "K": k, "STEPS": tiling.steps_of(k) if "PARTIAL" in kind else triton.cdiv(k, tiling.step),
        "STAGES": tiling.stages, "FLIGHT": tiling.flight or tiling.stages, "OVERLAP": True,
        **dict.fromkeys(("PARTIAL", "GATED", "BEST"), False), **kind,
    }  # fmt: skip
    types = {"x": blocks(padded_batch(batch)), "w": blocks(rows), **({"out": "*fp32"} if "PARTIAL" in kind else {})}
    return cross_compile(
        staged_product_kernel, dtype, 90, constants, types=types, num_warps=tiling.warps, launch_pdl=True
    )


@pytest.mark.parametrize(
    ("batch", "model", "name", "dtype"),
    [
        (16, "ttt_linear", "gate_up", "fp16"), (16, "ttt_mlp", "output", "fp16"), (128, "ttt_linear", "down", "bf16"),
        (128, "ttt_linear", "head", "fp16"), (16, "shared_kv", "down", "fp16"),
        *(
            pytest.param(batch, model, name, "fp16", marks=pytest.mark.long)
            for batch in STAGED for model in get_args(Model) for name in STAGED_PRODUCTS
        ),
    ],
)  # fmt: skip
def test_products_through_shared_memory(batch, model, name, dtype, capsys):
    tiling = getattr(getattr(STAGED[batch], model), name)
    compiled = compile_staged(STAGED_PRODUCTS[name], tiling, batch, dtype)
    found = resources(compiled)
    with capsys.disabled():
        print(f"\n{name}, batch {batch}: {found}")
    assert found.local_bytes == 0
    assert found.shared_bytes <= SHARED_BYTES
    assert tiling.shared_bytes(batch) <= found.shared_bytes
    code = machine_code(compiled)
    wait, copies = code.index(WAIT), [place for place, one in enumerate(code) if one.startswith("UTMALDG")]
    assert code.index(RELEASE) < copies[0] < wait, "weights are requested before it waits"
    assert [place for place in copies if place > wait], "and x afterwards"
    multiply = [place for place, one in enumerate(code) if one.startswith("HGMMA")]
    assert wait < multiply[0]
    assert not [one for one in code[:wait] if one.startswith(("STG", "RED", "ATOM"))], "it writes before it waits"


def check_requests_come_first(compiled):
    """The next kernel is let go, weights and state are requested, and only then this one waits for its inputs."""
    code = machine_code(compiled)
    wait = code.index(WAIT)
    assert code.index(RELEASE) < wait
    assert [name for name in code[:wait] if name.startswith("LDG")], "it requests nothing"
    assert not [name for name in code[:wait] if name.startswith(("STG", "RED", "ATOM"))], "it writes before it waits"
    assert not [name for name in code[:wait] if name.startswith("HMMA")], "it multiplies before it waits"


STAGES: list[tuple[object, dict[str, object], int]] = [
    (fused.conv_rms_norm_kernel, {"PARTS": 3}, 8),
    (fused.gated_layer_norm_kernel, {}, 8),
    (fused.add_rms_norm_kernel, {"PARTS": 3}, 8),
    (stages.heads_kernel, {"PROJECTED": 6208, "MLP": False, "WARPS": 1}, 1),
    (stages.heads_kernel, {"PROJECTED": 6208, "MLP": True, "WARPS": 8, "CHUNK": 32}, 8),
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
    for product in PRODUCTS:
        tiling = HALF if product is OUTPUT else WIDE
        resources(compile_product(product, tiling, 8, capability, overlap, dtype))
    for stage in STAGES:
        resources(compile_stage(*stage, capability, overlap, dtype))
    others = {"BATCH": 8, "COUNT": 4096}
    for kernel in (stages.embedding_kernel, stages.sampling_kernel):
        resources(compile_stage(kernel, others, 8, capability, overlap, dtype))

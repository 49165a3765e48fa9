"""The attention kernels without a GPU: their machine code, their launches."""

from dataclasses import replace

import pytest
import torch

from tests.kernels.cross_compile import cross_compile, machine_code, resources
from ttt_mlflow.kernels.attention import decode, launch
from ttt_mlflow.kernels.attention.launch import (
    FLOAT32_ROWS,
    ROWS,
    default_launch,
    other_rows,
    other_splits,
    other_starts,
)

H200 = 132  # multiprocessors


def shape(group, block, single, overlap=False, ahead=0):
    return {
        "KV_HEADS": 4, "GROUP": group, "ROWS": 16, "HEAD_DIM": 128, "BLOCK": block, "SINGLE": single,
        "OVERLAP": overlap, "AHEAD": ahead,
    }  # fmt: skip


PARTS = {"GROUP": 4, "HEAD_DIM": 128, "BLOCK": 64, "SPLITS": launch.MOST_SPLITS, "OVERLAP": False}
CASES = [(90, "fp16", row) for row in ROWS] + [(90, "bf16", ROWS[0]), (90, "fp32", FLOAT32_ROWS[0])]
CASES += [(capability, "fp16", ROWS[0]) for capability in (80, 100)]


@pytest.mark.parametrize(("capability", "dtype", "row"), CASES, ids=str)
@pytest.mark.parametrize(("group", "single"), [(1, True), (4, False)])
def test_decode(group, single, capability, dtype, row, capsys):
    """The cache is copied ahead of its use, and nothing spills; float32 is for checks."""
    block, warps, stages = row
    constants = shape(group, block, single)
    compiled = cross_compile(
        decode.decode_attention_kernel, dtype, capability, constants, num_warps=warps, num_stages=stages
    )
    found = resources(compiled)
    with capsys.disabled():
        print(f"\ndecode_attention {dtype} sm_{capability} {row} group {group}: {found}")
    assert found.shared_bytes <= (163 if capability == 80 else 227) * 1024
    assert "cp.async" in compiled.asm["ptx"]
    assert ("mma.sync" in compiled.asm["ptx"]) == (dtype != "fp32")
    if capability == 90:
        assert found.local_bytes <= (16 if dtype == "fp32" else 0)


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_other_kernels(capability):
    heads = {"HEADS": 16, "KV_HEADS": 4, "HEAD_DIM": 128, "HEADS_BLOCK": 16, "KV_BLOCK": 4}
    for kernel, constants in ((decode.rotate_into_cache_kernel, heads), (decode.combine_kernel, PARTS)):
        assert resources(cross_compile(kernel, "fp16", capability, constants, num_warps=4)).local_bytes == 0


@pytest.mark.parametrize("row", [ROWS[0], *(pytest.param(row, marks=pytest.mark.long) for row in ROWS[1:])], ids=str)
@pytest.mark.parametrize(("group", "single", "ahead"), [(1, True, 0), (4, False, 1), (4, True, 8)])
def test_decode_that_overlaps(group, single, ahead, row):
    """The position alone is read before the kernel before has ended; it is what this step does not write. The cache may
    be requested, but not read: the level-2 cache has what is there."""
    block, warps, stages = row
    compiled = cross_compile(
        decode.decode_attention_kernel, "fp16", 90, shape(group, block, single, overlap=True, ahead=ahead),
        num_warps=warps, num_stages=stages, launch_pdl=True,
    )  # fmt: skip
    assert resources(compiled).local_bytes == 0
    check_one_read_comes_first(compiled)
    code = machine_code(compiled)
    requests = [place for place, name in enumerate(code) if name.startswith("CCTL")]
    assert bool(requests) == bool(ahead)
    assert all(place < code.index("ACQBULK") for place in requests)


def test_parts_that_overlap():
    constants = {**PARTS, "OVERLAP": True}
    check_one_read_comes_first(
        cross_compile(decode.combine_kernel, "fp16", 90, constants, num_warps=4, launch_pdl=True)
    )


def check_one_read_comes_first(compiled):
    code = machine_code(compiled)
    wait = code.index("ACQBULK")
    assert code.index("PREEXIT") < wait
    memory = ("LDG", "LDGSTS", "STG", "RED", "ATOM")
    assert [name for name in code[:wait] if name.startswith(memory)] == ["LDG.E"]
    assert [name for name in code[wait:] if name.startswith("STG")]


@pytest.mark.parametrize(
    ("heads", "length", "splits"),
    [
        (16, 281, 1),  # short: as a whole, whatever the batch
        (4, 512, 1),
        (4, 2048, 8),  # no part is shorter than LEAST
        (4, 32768, 64),
        (64, 32768, 5),  # two programs on each multiprocessor
        (16384, 32768, 1),
    ],
)
def test_parts_fill_the_gpu_and_are_not_short(heads, length, splits):
    assert default_launch(heads, length, H200, torch.float16).splits == splits


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_what_is_tried_begins_with_the_default(dtype):
    first = default_launch(64, 4096, H200, dtype)
    rows, parts = other_rows(first, dtype), other_splits(first, 64, 4096, H200)
    assert rows[0] == parts[0] == first
    assert len(set(rows)) == len(rows) == len(launch.rows_for(dtype))
    assert {one.splits for one in parts} == {1, 3, 5, 9, 17}
    assert all(1 <= one.splits <= launch.MOST_SPLITS for one in other_splits(first, 1, 32768, H200))


def test_a_launch_may_request_early_or_start_later() -> None:
    """Later with its parts, those of the default, or one."""
    first = default_launch(64, 4096, H200, torch.float16)
    chosen = replace(first, splits=9, block=32)
    found = other_starts(chosen, first)
    assert found[0] == chosen
    assert (found[0].options["early"], found[0].options["ahead"]) == (True, 0)
    assert found[1:3] == [replace(chosen, ahead=blocks) for blocks in (1, 8)]
    assert found[3:] == [replace(chosen, splits=splits, early=False) for splits in (9, first.splits, 1)]

"""The read stream: with wide loads that are in flight together."""

import re

import pytest

from tests.kernels.cross_compile import cross_compile, resources
from ttt_mlflow.kernels.stream import block_sums_kernel
from ttt_mlflow.measurement.ceilings import READ_SHAPES


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("block", "num_warps"), READ_SHAPES)
def test_the_machine_code(block, num_warps, capability, capsys):
    compiled = cross_compile(block_sums_kernel, "i32", capability, {"BLOCK": block}, num_warps=num_warps)
    found = resources(compiled)
    with capsys.disabled():
        print(f"\nblock_sums {block} values, {num_warps} warps, sm_{capability}: {found}")
    assert found.local_bytes == 0
    loads = re.findall(r"ld\.global\.v4\.b32|ld\.global\.v8\.b32", compiled.asm["ptx"])
    values_a_thread = block // (32 * num_warps)
    assert sum(int(load.split(".v")[1][0]) for load in loads) == values_a_thread

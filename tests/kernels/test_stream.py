"""The read stream: that it reads everything, and with wide loads that are in flight together."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.cross_compile import cross_compile, resources
from ttt_mlflow.kernels.stream import block_sums_kernel
from ttt_mlflow.measurement.ceilings import READ_SHAPES


def test_in_the_interpreter():
    file = Path(__file__).with_name("interpreted_stream.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "3 passed" in done.stdout


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

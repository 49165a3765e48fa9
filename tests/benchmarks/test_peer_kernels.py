"""The peers' kernels with other launch options than the package's."""

import pytest

from benchmarks.peer_kernels import DELTA_OPTIONS, RWKV_WARPS, options
from tests.kernels.cross_compile import cross_compile, resources
from tests.kernels.test_peers import DELTA, RWKV7
from ttt_mlflow.kernels import launch
from ttt_mlflow.kernels.gated_delta import decode as gated_delta
from ttt_mlflow.kernels.rwkv7 import decode as rwkv7


def test_the_first_options_are_the_packages() -> None:
    rows, warps = DELTA_OPTIONS[0]
    assert (rows, {"num_warps": warps}) == (gated_delta.ROWS, launch.FLOAT32["gated_delta_step"][256])
    assert {"num_warps": RWKV_WARPS[0]} == launch.FLOAT32["rwkv7_step"][64]


def test_options_hold_until_the_block_ends() -> None:
    before, rows = launch.FLOAT32["gated_delta_step"], gated_delta.ROWS
    with options("gated_delta_step", 256, warps=4, rows=32):
        assert launch.FLOAT32["gated_delta_step"] == {256: {"num_warps": 4}}
        assert gated_delta.ROWS == 32
    assert launch.FLOAT32["gated_delta_step"] is before
    assert rows == gated_delta.ROWS


@pytest.mark.long
def test_all_of_them_compile() -> None:
    for rows, warps in DELTA_OPTIONS:
        found = cross_compile(gated_delta.gated_delta_step_kernel, "fp16", 90, {**DELTA, "ROWS": rows}, num_warps=warps)
        assert resources(found).registers <= 255
    for warps in RWKV_WARPS:
        found = cross_compile(rwkv7.rwkv7_step_kernel, "fp16", 90, {**RWKV7, "FIRST": False}, num_warps=warps)
        assert resources(found).local_bytes == 0

"""Compiled for GPUs that are not here; whether it waits as long as it is told is for tests/gpu."""

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.spin_kernel import spin_kernel
from tests.kernels.cross_compile import resources


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_wait_is_compiled_as_a_loop(capability: int) -> None:
    source = ASTSource(spin_kernel, {"ns": "*i64", "waited": "*i64"}, {}, {})
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": 1})
    assert resources(compiled).local_bytes == 0
    assert compiled.asm["ptx"].count("%globaltimer") == 2  # before the loop and in it: neither is left out
    before, _, after = compiled.asm["ptx"].rpartition("%globaltimer")
    label = before.rpartition("\n$")[2].partition(":")[0]
    assert f"bra \t${label};" in after

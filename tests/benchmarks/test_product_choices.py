"""What the comparison of products refuses. Its times are a GPU's; the kernel that it tries: tests/kernels."""

import pytest
import torch
from click.testing import CliRunner

from benchmarks.product_choices import BATCHES, PRODUCTS, STAGED, choices, main


@pytest.mark.parametrize("batch", BATCHES)
def test_what_is_compared(batch: int) -> None:
    for product in PRODUCTS:
        names = choices(product, batch, staged=True)
        assert {"cuBLAS", "cuBLASLt"} <= set(names)
        registers = {"in registers, wide", "in registers, half", "in registers, pair"}
        assert registers & set(names) == (registers if batch <= 16 else set())
        assert (len(names) > 5) == (batch <= 128)
        assert set(choices(product, batch, staged=False)) <= {"cuBLAS", "cuBLASLt"} | registers
    assert len(set(STAGED)) == len(STAGED)


def test_bad_input() -> None:
    done = CliRunner().invoke(main, ["--batches=1,3"])
    assert done.exit_code == 2
    assert "3; it takes 1, 16, 32" in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is what is tested")
def test_without_a_gpu_it_says_so() -> None:
    done = CliRunner().invoke(main, [])
    assert done.exit_code == 1
    assert "no CUDA GPU was found" in done.output

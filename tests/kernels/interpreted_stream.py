"""The read stream in Triton's interpreter, on a CPU. Run by test_interpreter.py with TRITON_INTERPRET=1."""

import pytest
import torch

from ttt_mlflow.kernels.stream import block_sums


@pytest.mark.parametrize("blocks", [1, 3])
def test_every_value_is_in_its_blocks_sum(blocks):
    x = torch.randint(-(2**20), 2**20, (blocks * 64,), dtype=torch.int32)
    sums = torch.empty(blocks, dtype=torch.int32)
    block_sums(x, sums, 64, 1)
    assert torch.equal(sums, x.view(-1, 64).sum(1).int())


def test_what_does_not_fit_is_refused():
    x, sums = torch.zeros(100, dtype=torch.int32), torch.empty(3, dtype=torch.int32)
    with pytest.raises(ValueError, match="x has 100 values, expected 3 blocks of 32"):
        block_sums(x, sums, 32, 1)

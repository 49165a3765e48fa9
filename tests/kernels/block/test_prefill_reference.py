"""A layer outside its inner net, for prompts in plain PyTorch, against decode steps."""

import pytest
import torch

from tests.kernels.block_cases import check_against_steps
from ttt_mlflow.kernels.block import prefill_reference


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("start", [0, 6, 15])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 21])
def test_a_prompt_is_as_many_steps(length, start, dtype):
    check_against_steps(prefill_reference, dtype, length, start)

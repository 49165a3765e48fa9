"""What a Mamba model has to do, against the published shape and numbers counted by hand."""

import pytest
import torch

from ttt_mlflow.measurement.roofline import by_part
from ttt_mlflow.models.mamba.model import SIZES, VOCAB_SIZE
from ttt_mlflow.models.mamba.work import decode_stages, prefill_stages
from ttt_mlflow.workload import CONVOLUTION, HEAD, INNER, PROJECTIONS, SAMPLING


def test_every_weight_of_mamba_14b_is_read_once() -> None:
    """1,372,178,432 parameters with the padded vocabulary, of which A and D stay in float32."""
    width, layers = SIZES["state-spaces/mamba-1.4b"]
    stages = decode_stages(width, layers, VOCAB_SIZE, torch.float16, 128)
    single = 48 * 4096 * 17
    weights = sum(stage.count * stage.weight_bytes for stage in stages)
    assert weights == 2 * (1_372_178_432 - single) + 4 * single


def test_a_decode_step_of_mamba_14b_by_hand() -> None:
    """Batch 128, fp16: 48 layers of width 2048, 4096 inside, 16 states a channel, step sizes through 128."""
    parts = {part.part: part for part in by_part(decode_stages(2048, 48, 50277, torch.float16, 128), None)}
    assert set(parts) == {PROJECTIONS, CONVOLUTION, INNER, HEAD, SAMPLING}
    matrices = 2048 * 8192 + 4096 * 160 + 128 * 4096 + 4096 * 2048
    assert parts[PROJECTIONS].bytes == 48 * 2 * (matrices + 2048 + 4096)  # and a norm, the step sizes' bias
    assert parts[PROJECTIONS].flops == 48 * 2 * 128 * matrices
    assert parts[CONVOLUTION].bytes == 48 * 2 * (5 * 4096 + 128 * 4 * 4096)
    state = 2 * 4096 * 16 + 4 * 4096 + 2 * 16  # read and written; x, z, step sizes, output; B, C
    assert parts[INNER].bytes == 48 * (2 * 128 * state + 4 * 4096 * 17)
    assert parts[INNER].flops == 48 * 128 * 4096 * (6 * 16 + 2)
    assert parts[HEAD].bytes == 2 * (50280 * 2048 + 2048 + 128 * 2048)
    assert parts[HEAD].flops == 2 * 128 * 2048 * 50280


@pytest.mark.parametrize("tokens", [1, 7])
def test_a_prompt_by_hand(tokens: int) -> None:
    """Width 32, 64 inside, a bottleneck of 2; two layers, six words padded to eight."""
    parts = {part.part: part for part in by_part(prefill_stages(32, 2, 6, torch.float32, 3, tokens), None)}
    matrices = 32 * 128 + 64 * 34 + 2 * 64 + 64 * 32
    assert parts[PROJECTIONS].flops == 2 * 2 * 3 * tokens * matrices
    assert parts[CONVOLUTION].bytes == 2 * 4 * (5 * 64 + 3 * 3 * 64)
    assert parts[INNER].bytes == 2 * 4 * (64 * 17 + 3 * (64 * 16 + tokens * (4 * 64 + 32)))
    assert parts[HEAD].flops == 2 * 3 * 32 * 8
    assert parts[HEAD].bytes == 4 * (9 * 32 + min(3 * tokens, 8) * 32)

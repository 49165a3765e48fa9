"""The bytes and operations of a Mamba-2 model, stage by stage. docs/roofline.md derives the counts.

The shapes are those of mamba-ssm's Mamba2 block with the published configurations: width D, inner width E = 2 D in
heads of 64 channels, a state of 128 numbers per channel, one group, convolutions of 4 taps over x, B and C.
"""

import math

import torch

from ttt_mlflow.models.mamba.work import EXPANSION, SINGLE, TAPS
from ttt_mlflow.workload import CONVOLUTION, HEAD, INNER, PROJECTIONS, SAMPLING, TOKEN_BYTES, Stage, Workload

STATE, HEAD_DIM = 128, 64
VOCABULARY_MULTIPLE = 16  # mamba-ssm pads the vocabulary to a multiple of this


def stages(width: int, layers: int, vocab: int, dtype: torch.dtype, workload: Workload) -> list[Stage]:
    """One decode step, or the whole prompt, whose state and last three inputs are written at its end."""
    inner, size, batch = EXPANSION * width, dtype.itemsize, workload.batch
    heads, channels = inner // HEAD_DIM, inner + 2 * STATE
    prompt = workload.mode == "prefill"
    rows = batch * (workload.promptlen if prompt else 1)
    once, inputs = (1, TAPS - 1) if prompt else (2, TAPS)
    vocab = math.ceil(vocab / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    def product(ins: int, outs: int, norm: int) -> Stage:
        return Stage(PROJECTIONS, (ins * outs + norm) * size, 0, 2 * rows * ins * outs, layers)

    operands = rows * (2 * inner + 2 * STATE + heads)  # a token's x, output, B, C and step sizes
    return [
        Stage(HEAD, 0, min(rows, vocab) * width * size, 0),
        product(width, inner + channels + heads, width),
        Stage(
            CONVOLUTION,
            (TAPS + 1) * channels * size,
            batch * inputs * channels * size,
            2 * TAPS * channels * rows,
            layers,
        ),
        # per state element: the decay, two for the update, two for the output; D x for the skip of a channel
        Stage(
            INNER,
            heads * (2 * size + SINGLE),
            (batch * once * inner * STATE + operands) * size,
            rows * inner * (5 * STATE + 2),
            layers,
        ),
        product(inner, width, inner),
        Stage(HEAD, (vocab + 1) * width * size, 0, 2 * batch * width * vocab),
        Stage(SAMPLING, 0, batch * TOKEN_BYTES, 0),
    ]

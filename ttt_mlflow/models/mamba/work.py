"""The bytes and operations of a Mamba model, stage by stage. docs/roofline.md derives the counts.

The shapes are those of mamba-ssm's Mamba block with the published configurations: width D, inner width E = 2 D, a state
of 16 numbers per channel, a step size through a bottleneck of D / 16, convolutions of 4 taps.
"""

import math

import torch

from ttt_mlflow.workload import CONVOLUTION, HEAD, INNER, PROJECTIONS, SAMPLING, TOKEN_BYTES, Stage

STATE, TAPS, EXPANSION = 16, 4, 2
VOCABULARY_MULTIPLE = 8  # mamba-ssm pads the vocabulary to a multiple of this
SINGLE = 4  # bytes; mamba-ssm keeps A and D in float32 for every dtype


def decode_stages(width: int, layers: int, vocab: int, dtype: torch.dtype, batch: int) -> list[Stage]:
    """One decode step of ``batch`` sequences. It reads and writes the state, reads three kept inputs, writes one."""
    inner = EXPANSION * width
    return _stages(width, layers, vocab, dtype, batch, 1, 2 * inner * STATE, TAPS * inner)


def prefill_stages(width: int, layers: int, vocab: int, dtype: torch.dtype, batch: int, tokens: int) -> list[Stage]:
    """A prompt of ``tokens`` tokens per sequence. The state and the last three inputs are written at its end."""
    inner = EXPANSION * width
    return _stages(width, layers, vocab, dtype, batch, tokens, inner * STATE, (TAPS - 1) * inner)


def _stages(
    width: int, layers: int, vocab: int, dtype: torch.dtype, batch: int, tokens: int, state: int, conv: int
) -> list[Stage]:
    """``state`` and ``conv``: elements that are moved for one sequence in one layer."""
    inner, rank, size = EXPANSION * width, math.ceil(width / 16), dtype.itemsize
    vocab = math.ceil(vocab / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    rows = batch * tokens

    def product(inputs: int, outputs: int, other_weights: int = 0) -> Stage:
        return Stage(
            PROJECTIONS, (inputs * outputs + other_weights) * size, 0, 2 * rows * inputs * outputs, layers
        )  # fmt: skip

    # a token's x, z, step sizes and output, and its B and C, as q, k, v and the output of TTT
    operands = tokens * (4 * inner + 2 * STATE)
    return [
        Stage(HEAD, 0, min(rows, vocab) * width * size, 0),
        product(width, 2 * inner, width),
        Stage(CONVOLUTION, (TAPS + 1) * inner * size, batch * conv * size, 2 * TAPS * inner * rows, layers),
        product(inner, rank + 2 * STATE),
        product(rank, inner, inner),
        # per state element: dt A, dt x B, two for the update, two for the output; D x for the skip of a channel
        Stage(
            INNER,
            inner * (STATE + 1) * SINGLE,
            batch * (state + operands) * size,
            rows * inner * (6 * STATE + 2),
            layers,
        ),
        product(inner, width),
        Stage(HEAD, (vocab + 1) * width * size, 0, 2 * batch * width * vocab),
        Stage(SAMPLING, 0, batch * TOKEN_BYTES, 0),
    ]

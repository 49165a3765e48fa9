"""The bytes and operations of the models of flash-linear-attention. docs/roofline.md derives the counts.

A prompt's state starts from zero, stays on the chip and is written once. In the last layer, what follows the state has
the last token alone, because no other token's result is needed.
"""

from dataclasses import dataclass

import torch

from ttt_mlflow.models.fla.sizes import VOCABULARY_MULTIPLE, GatedDeltaSize, Rwkv7Size, padded
from ttt_mlflow.workload import (
    CONVOLUTION,
    FEED_FORWARD,
    HEAD,
    INNER,
    PROJECTIONS,
    SAMPLING,
    TOKEN_BYTES,
    Stage,
    Workload,
)

TAPS = 4
SINGLE = 4  # bytes; the state is float32 for every dtype
# operations for an element of the state: its decay, and two for each product or update
DELTA_FLOPS = 1 + 2 * 3  # S k, the rank-1 update, S q
RWKV7_FLOPS = 1 + 2 * 4  # κ S, two rank-1 updates, r S


@dataclass(frozen=True)
class _Counter:
    """rows: tokens of all sequences; last: those of which the results are needed behind the last state."""

    dtype: torch.dtype
    workload: Workload

    @property
    def prompt(self) -> bool:
        return self.workload.mode == "prefill"

    @property
    def rows(self) -> int:
        return self.workload.batch * (self.workload.promptlen if self.prompt else 1)

    @property
    def once(self) -> int:
        """How often the state moves: it is written, and in a decode step read."""
        return 1 if self.prompt else 2

    def stage(self, part: str, weights: float, state: float = 0, products: float = 0, count: int = 1) -> Stage:
        """weights, state: elements in the model's dtype; products: multiply-adds of a token."""
        size = self.dtype.itemsize
        return Stage(part, weights * size, state * size, 2 * self.rows * products, count)

    def behind_state(self, part: str, weights: float, products: float, layers: int) -> list[Stage]:
        """A stage behind the state, where the last layer's has the last token of each sequence alone."""
        size = self.dtype.itemsize
        last = Stage(part, weights * size, 0, 2 * self.workload.batch * products)
        return [self.stage(part, weights, 0, products, layers - 1), last]

    def around(self, vocab: int, width: int, norms: int, layers: list[Stage]) -> list[Stage]:
        """norms: the weights of the norms that are not in ``layers``."""
        vocab, size, batch = padded(vocab, VOCABULARY_MULTIPLE), self.dtype.itemsize, self.workload.batch
        return [
            Stage(HEAD, 0, min(self.rows, vocab) * width * size, 0),
            *layers,
            Stage(HEAD, (vocab * width + norms) * size, 0, 2 * batch * width * vocab),
            Stage(SAMPLING, 0, batch * TOKEN_BYTES, 0),
        ]


def gated_delta_stages(size: GatedDeltaSize, dtype: torch.dtype, workload: Workload) -> list[Stage]:
    """One decode step, or the whole prompt."""
    count, batch, width = _Counter(dtype, workload), workload.batch, size.width
    matrices = size.keys * size.value_dim  # elements of the states of a sequence in one layer
    operands = count.rows * (size.channels + size.values + 2 * size.heads)
    inputs = TAPS - 1 if count.prompt else TAPS  # a token reads the three before it and writes its own
    inner = Stage(
        INNER,
        2 * size.heads * SINGLE,
        batch * count.once * matrices * SINGLE + operands * dtype.itemsize,
        count.rows * matrices * DELTA_FLOPS,
        size.layers,
    )
    return count.around(
        size.vocab,
        width,
        width,
        [
            count.stage(PROJECTIONS, size.projected * width + width, 0, size.projected * width, size.layers),
            count.stage(
                CONVOLUTION, TAPS * size.channels, batch * inputs * size.channels, TAPS * size.channels, size.layers
            ),
            inner,
            *count.behind_state(PROJECTIONS, size.values * width + size.value_dim, size.values * width, size.layers),
            *count.behind_state(
                FEED_FORWARD, 2 * size.intermediate * width + width, 2 * size.intermediate * width, size.layers
            ),
            *count.behind_state(FEED_FORWARD, size.intermediate * width, size.intermediate * width, size.layers),
        ],
    )


def rwkv7_stages(size: Rwkv7Size, dtype: torch.dtype, workload: Workload) -> list[Stage]:
    """One decode step, or the whole prompt."""
    count, batch, width, layers = _Counter(dtype, workload), workload.batch, size.width, size.layers
    matrices = width * size.head_dim  # elements of the states of a sequence in one layer
    shift = batch * count.once * width  # the token before, for one of the two mixings of a layer
    value_rank = size.ranks[0]
    low = 2 * width * sum(size.ranks)
    # r, k, v, the four low-rank outputs, the first layer's value and the output
    inner = Stage(
        INNER,
        5 * width * dtype.itemsize,
        batch * count.once * matrices * SINGLE + 9 * count.rows * width * dtype.itemsize,
        count.rows * matrices * RWKV7_FLOPS,
        layers,
    )
    # the first layer has no residual of the value
    first = count.stage(PROJECTIONS, low - 2 * width * value_rank + 2 * width, 0, low - 2 * width * value_rank)
    return count.around(
        size.vocab,
        width,
        4 * width,
        [
            count.stage(CONVOLUTION, 8 * width, shift, 6 * width, layers),
            count.stage(PROJECTIONS, 3 * width**2, 0, 3 * width**2, layers),
            first,
            count.stage(PROJECTIONS, low + 3 * width, 0, low, layers - 1),
            inner,
            *count.behind_state(PROJECTIONS, width**2, width**2, layers),
            count.stage(FEED_FORWARD, 3 * width, shift, width, layers),
            *count.behind_state(FEED_FORWARD, size.intermediate * width, size.intermediate * width, layers),
            *count.behind_state(FEED_FORWARD, size.intermediate * width, size.intermediate * width, layers),
        ],
    )

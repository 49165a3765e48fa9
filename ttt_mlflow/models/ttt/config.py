"""The sizes of a TTT model (Sun et al. 2024, arXiv 2407.04620, table of the training recipes; widths as published)."""

import math
from dataclasses import dataclass

from ttt_mlflow.kernels.inner_layers import INNER_LAYERS, InnerLayer

VOCAB_SIZE = 50277
DECODE_PATHS = LAUNCHES, OVERLAPPED = (
    "launches",
    "overlapped",
)  # of a step: a kernel for each part, or those that overlap
ROW_ALIGNMENT = 64  # fused weights are padded to a multiple of this, for the fast path of matrix products


def padded(rows: int) -> int:
    """The rows of a fused weight with ``rows`` that mean something."""
    return math.ceil(rows / ROW_ALIGNMENT) * ROW_ALIGNMENT


@dataclass(frozen=True)
class TTTConfig:
    """The widths of one model. ``layer_type`` is one of :data:`INNER_LAYERS`."""

    layer_type: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocab_size: int = VOCAB_SIZE
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def inner_layer(self) -> InnerLayer:
        return INNER_LAYERS[self.layer_type]

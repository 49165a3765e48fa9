"""The sizes of the models of flash-linear-attention: its defaults of the 1.3B class, and small ones for a CPU."""

import math
from dataclasses import dataclass

VOCAB_SIZE = 50277
VOCABULARY_MULTIPLE = 8  # rows of the embeddings are padded to a multiple of this, for the alignment of the logits
ROW_ALIGNMENT = 64  # and those of fused projections to a multiple of this
EXPAND_VALUES = 2


def padded(rows: int, multiple: int = ROW_ALIGNMENT) -> int:
    return math.ceil(rows / multiple) * multiple


@dataclass(frozen=True)
class GatedDeltaSize:
    """width D; heads H of the keys, of key_dim K; their values have 2 K; the feed-forward has ``intermediate``."""

    width: int
    layers: int
    heads: int
    key_dim: int
    intermediate: int
    vocab: int = VOCAB_SIZE

    @property
    def value_dim(self) -> int:
        return EXPAND_VALUES * self.key_dim

    @property
    def keys(self) -> int:
        return self.heads * self.key_dim

    @property
    def values(self) -> int:
        return self.heads * self.value_dim

    @property
    def channels(self) -> int:
        """Of the convolutions of q, k and v together."""
        return 2 * self.keys + self.values

    @property
    def projected(self) -> int:
        """Rows of the fused projection: q, k, v, gate, decay and beta, without padding."""
        return self.channels + self.values + 2 * self.heads


GATED_DELTA = {
    "gated-deltanet-1.3b": GatedDeltaSize(2048, 21, 6, 256, 5632),
    "gated-deltanet-tiny": GatedDeltaSize(128, 2, 2, 32, 256, vocab=512),
}


@dataclass(frozen=True)
class Rwkv7Size:
    """width D; heads of head_dim F; ranks of the low-rank projections of value, decay, rate and gate."""

    width: int
    layers: int
    head_dim: int
    intermediate: int
    ranks: tuple[int, int, int, int]
    vocab: int = VOCAB_SIZE

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def rank(self) -> int:
        """To which the four are padded, so that they are one batched product."""
        return max(self.ranks)


RWKV7 = {
    "rwkv7-1.3b": Rwkv7Size(2048, 24, 64, 8192, (16, 64, 64, 128)),
    "rwkv7-tiny": Rwkv7Size(128, 2, 64, 512, (16, 32, 32, 32), vocab=512),
}

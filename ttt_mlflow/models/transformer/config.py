"""The sizes of a transformer."""

from dataclasses import dataclass

from ttt_mlflow.models.ttt.config import VOCAB_SIZE

PREFILL_TOKENS = 32768  # tokens of whole sequences that go through a layer at once; a longer sequence goes alone


@dataclass(frozen=True)
class TransformerConfig:
    """The widths of one model. ``num_heads`` is a multiple of ``num_kv_heads``."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int = VOCAB_SIZE
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def kv_width(self) -> int:
        """Width of a token's keys, and of its values."""
        return self.num_kv_heads * self.head_dim

    @property
    def projected(self) -> int:
        """Width of the fused projection of queries, keys and values."""
        return self.hidden_size + 2 * self.kv_width

    @property
    def parameters(self) -> int:
        """Of the whole model; embeddings and head share theirs."""
        width = self.hidden_size
        layer = width * (self.projected + width + 3 * self.intermediate_size + 2)
        return self.num_layers * layer + width * (self.vocab_size + 1)

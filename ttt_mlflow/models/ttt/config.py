"""Shape of a TTT model (Sun et al. 2024, arXiv 2407.04620, table of the training recipes; widths as published)."""

from dataclasses import dataclass

VOCAB_SIZE = 50277


@dataclass(frozen=True)
class TTTConfig:
    """Widths of one model; ``layer_type`` is ``linear`` or ``mlp``."""

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
    def base_lr(self) -> float:
        """Inner learning rate before the gate: 1 for TTT-Linear, 0.1 for TTT-MLP (section 2.7 of the paper)."""
        return 1.0 if self.layer_type == "linear" else 0.1

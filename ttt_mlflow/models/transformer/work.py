"""The bytes and operations of a transformer, stage by stage. docs/roofline.md derives the counts."""

from dataclasses import dataclass, replace

import torch

from ttt_mlflow.models.transformer.config import TransformerConfig
from ttt_mlflow.workload import ATTENTION, FEED_FORWARD, HEAD, PROJECTIONS, SAMPLING, TOKEN_BYTES, Stage


def decode_stages(config: TransformerConfig, dtype: torch.dtype, batch: int, position: float) -> list[Stage]:
    """One decode step of ``batch`` sequences, each with ``position`` tokens in its cache (their mean over a pass)."""
    moved = 2 * config.kv_width * (position + 1)  # read of all tokens before, and written of the new one
    attention = Stage(
        ATTENTION,
        weight_bytes=0,
        state_bytes=batch * (moved + _operands(config)) * dtype.itemsize,
        flops=4 * batch * config.hidden_size * (position + 1),
        count=config.num_layers,
    )
    return _Counter(config, dtype, batch, 1).stages([attention])


def prefill_stages(config: TransformerConfig, dtype: torch.dtype, batch: int, tokens: int) -> list[Stage]:
    """A prompt of ``tokens`` tokens for each of ``batch`` sequences, from an empty cache to the first new token.

    In the last layer, the last token of each sequence attends alone.
    """
    pairs = tokens * (tokens + 1) / 2
    kept = 2 * config.kv_width * tokens  # written for later tokens
    every = Stage(
        ATTENTION,
        weight_bytes=0,
        state_bytes=batch * (kept + tokens * _operands(config)) * dtype.itemsize,
        flops=4 * batch * config.hidden_size * pairs,
        count=config.num_layers - 1,
    )
    last = replace(every, flops=4 * batch * config.hidden_size * tokens, count=1)
    return _Counter(config, dtype, batch, tokens).stages([every, last])


def _operands(config: TransformerConfig) -> int:
    """Elements of a token: its query, key and value, and the output."""
    return config.projected + config.hidden_size


@dataclass(frozen=True)
class _Counter:
    config: TransformerConfig
    dtype: torch.dtype
    batch: int
    tokens: int

    def stages(self, attention: list[Stage]) -> list[Stage]:
        """The stages in the order of execution."""
        config = self.config
        width, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
        looked_up = min(self.batch * self.tokens, vocab) * width * self.dtype.itemsize
        return [
            Stage(HEAD, 0, looked_up, 0),
            self._product(PROJECTIONS, width, config.projected, width),
            *attention,
            *self._after_the_attention(PROJECTIONS, width, width, 0),
            *self._after_the_attention(FEED_FORWARD, width, 2 * inner, width),
            *self._after_the_attention(FEED_FORWARD, inner, width, 0),
            Stage(HEAD, (vocab + 1) * width * self.dtype.itemsize, 0, 2 * self.batch * width * vocab),
            Stage(SAMPLING, 0, self.batch * TOKEN_BYTES, 0),
        ]

    def _product(self, part: str, inputs: int, outputs: int, other_weights: int) -> Stage:
        """A matrix product of all rows, including the weights of the preceding norm."""
        weights = (inputs * outputs + other_weights) * self.dtype.itemsize
        return Stage(part, weights, 0, 2 * self.batch * self.tokens * inputs * outputs, self.config.num_layers)

    def _after_the_attention(self, part: str, inputs: int, outputs: int, other_weights: int) -> list[Stage]:
        """The same, where the last layer needs the last token of each sequence alone."""
        every = self._product(part, inputs, outputs, other_weights)
        if self.tokens == 1:
            return [every]
        return [replace(every, count=every.count - 1), replace(every, flops=every.flops / self.tokens, count=1)]

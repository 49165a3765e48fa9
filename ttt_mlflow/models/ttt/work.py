"""The bytes and operations of a TTT model, stage by stage. docs/roofline.md derives the counts."""

from dataclasses import dataclass, replace

import torch

from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.inner_layers import MINI_BATCH, decode_kernel_bytes, inner_flops, prompt_kernel_bytes
from ttt_mlflow.models.ttt.config import TTTConfig
from ttt_mlflow.workload import CONVOLUTION, FEED_FORWARD, HEAD, INNER, PROJECTIONS, SAMPLING, TOKEN_BYTES, Stage


def decode_stages(config: TTTConfig, dtype: torch.dtype, batch: int) -> list[Stage]:
    """One decode step of ``batch`` sequences, averaged over a mini-batch."""
    heads, dim = config.num_heads, config.head_dim
    mean_flops = inner_flops(config.layer_type, MINI_BATCH, dim) / MINI_BATCH
    inner = Stage(
        INNER,
        weight_bytes=_inner_norm(config) * dtype.itemsize,
        state_bytes=decode_kernel_bytes(config.layer_type, batch, heads, dim, dtype),
        flops=batch * heads * mean_flops,
        count=config.num_layers,
    )
    # a token reads the three previous inputs and writes its own
    return _Counter(config, dtype, batch, 1, CONV_TAPS).stages(inner)


def prefill_stages(config: TTTConfig, dtype: torch.dtype, batch: int, tokens: int) -> list[Stage]:
    """A prompt of ``tokens`` tokens for each of ``batch`` sequences, from an empty state to the first new token."""
    heads, dim = config.num_heads, config.head_dim
    size = config.inner_layer.elements(dim)
    initial = heads * (size.state + size.biases)  # the weights with which the state of every sequence starts
    inner = Stage(
        INNER,
        weight_bytes=(_inner_norm(config) + initial) * dtype.itemsize,
        state_bytes=prompt_kernel_bytes(config.layer_type, batch, tokens, heads, dim, dtype),
        flops=batch * heads * inner_flops(config.layer_type, tokens, dim),
        count=config.num_layers,
    )
    # the last three inputs, which the next token needs, are written once
    return _Counter(config, dtype, batch, tokens, CONV_TAPS - 1).stages(inner)


def _inner_norm(config: TTTConfig) -> int:
    """Scale and shift of the inner layer norm, and the learned token scales."""
    return 2 * config.hidden_size + MINI_BATCH


@dataclass(frozen=True)
class _Counter:
    """``conv_elements``: elements of a convolution's input that are moved per sequence and channel."""

    config: TTTConfig
    dtype: torch.dtype
    batch: int
    tokens: int
    conv_elements: int

    def stages(self, inner: Stage) -> list[Stage]:
        """The stages in the order of execution. ``inner``: the stage of the inner net."""
        width, feed, vocab = self.config.hidden_size, self.config.intermediate_size, self.config.vocab_size
        heads, rows = self.config.num_heads, self.batch * self.tokens
        looked_up = min(rows, vocab) * width * self.dtype.itemsize
        return [
            Stage(HEAD, 0, looked_up, 0),
            self._convolution(filters=1, norm=width),
            self._product(PROJECTIONS, width, 3 * width + heads, other_weights=width + heads),
            self._convolution(filters=2, norm=0),
            inner,
            *self._after_the_inner_net(PROJECTIONS, width, width, other_weights=2 * width),
            *self._after_the_inner_net(FEED_FORWARD, width, 2 * feed, other_weights=width),
            *self._after_the_inner_net(FEED_FORWARD, feed, width, other_weights=0),
            # for a prompt, only the last token's logits are computed
            Stage(HEAD, (vocab + 1) * width * self.dtype.itemsize, 0, 2 * self.batch * width * vocab),
            Stage(SAMPLING, 0, self.batch * TOKEN_BYTES, 0),
        ]

    def _product(self, part: str, inputs: int, outputs: int, other_weights: int) -> Stage:
        """A matrix product of all rows, including the weights of the preceding norm or of the following bias."""
        weights = inputs * outputs + other_weights
        flops = 2 * self.batch * self.tokens * inputs * outputs
        return Stage(part, weights * self.dtype.itemsize, 0, flops, self.config.num_layers)

    def _after_the_inner_net(self, part: str, inputs: int, outputs: int, other_weights: int) -> list[Stage]:
        """The same, where the last layer needs the last token of each sequence alone."""
        every = self._product(part, inputs, outputs, other_weights)
        if self.tokens == 1:
            return [every]
        return [replace(every, count=every.count - 1), replace(every, flops=every.flops / self.tokens, count=1)]

    def _convolution(self, filters: int, norm: int) -> Stage:
        """Depthwise filters over one kept input: their taps and biases, and the weights of the preceding norm."""
        width = self.config.hidden_size
        weights = filters * (CONV_TAPS + 1) * width + norm
        state = self.batch * self.conv_elements * width
        flops = 2 * filters * CONV_TAPS * width * self.batch * self.tokens
        return Stage(
            CONVOLUTION, weights * self.dtype.itemsize, state * self.dtype.itemsize, flops, self.config.num_layers
        )

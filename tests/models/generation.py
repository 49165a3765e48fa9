"""Greedy generation with any decoder."""

import torch
from torch import Tensor

from ttt_mlflow.models.entry import Decoder


def generate(decoder: Decoder, prompt: Tensor, genlen: int) -> Tensor:
    """Greedy continuation of prompt [B, P]: tokens [B, genlen]. The first follows from the prompt alone."""
    tokens = [decoder.prefill(prompt).clone()]
    for _ in range(genlen - 1):
        tokens.append(decoder.step().clone())
    return torch.stack(tokens, 1)

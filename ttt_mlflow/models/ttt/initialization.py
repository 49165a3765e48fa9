"""Random weights of a TTT model."""

import math

import torch

from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.models.ttt.model import TTTModel


def initialize(model: TTTModel, seed: int) -> None:
    """Random weights of the published initial distributions. A seed gives the same weights on one kind of device."""
    generator = torch.Generator(model.device).manual_seed(seed)
    for name, weight in model.named_parameters():
        leaf, parent = name.rsplit(".", 1)[-1], name.rsplit(".", 2)[-2]
        if leaf in ("learnable_ttt_lr_bias", "learnable_token_idx", "ttt_norm_bias", "b1", "b2") or (
            leaf == "bias" and "norm" in parent
        ):
            weight.zero_()
        elif "norm" in parent or leaf == "ttt_norm_weight":
            weight.fill_(1)
        elif parent in ("conv", "conv_q", "conv_k"):
            bound = 1 / math.sqrt(CONV_TAPS)  # the default of torch.nn.Conv1d with one input channel per group
            weight.uniform_(-bound, bound, generator=generator)
        else:
            weight.normal_(0, 0.02, generator=generator)
    model.weights_changed()

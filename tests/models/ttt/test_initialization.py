"""Random weights: those of a seed are the same, and have the published distributions."""

import torch

from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import build


def built(seed: int) -> TTTModel:
    return build(ModelRequest("ttt-tiny", "mlp_1_dual", torch.float32, torch.device("cpu"), seed, None))


def test_a_seed_gives_the_same_weights() -> None:
    one, same, other = (dict(built(seed).named_parameters()) for seed in (3, 3, 4))
    assert all(torch.equal(weight, same[name]) for name, weight in one.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in one.items())


def test_norms_are_one_biases_zero_and_matrices_as_published() -> None:
    for name, weight in built(0).named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (weight == 1).all(), name
        elif name.endswith(("ttt_norm_bias", "learnable_ttt_lr_bias", "learnable_token_idx", "b1")):
            assert (weight == 0).all(), name
        elif ".conv" in name:
            assert weight.abs().max() <= 0.5, name  # 1 / sqrt(4 taps)
            assert weight.std() > 0.2, name
        elif weight.numel() > 1000:
            assert abs(float(weight.std()) - 0.02) < 0.002, name

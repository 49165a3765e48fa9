"""The bytes that a decode step cannot do without."""

import pytest
import torch

from ttt_mlflow.measure.roofline import decode_kernel_bytes

MB = 1e6


@pytest.mark.parametrize(
    ("layer_type", "batch", "megabytes"),
    [
        ("linear", 128, 47.2),
        ("linear", 1024, 377.8),
        ("linear", 4096, 1511),
        ("mlp", 128, 334.7),
        ("mlp", 512, 1339),
        ("mlp", 1024, 2677),
    ],
)
def test_the_known_figures_of_the_1b_models_layers(layer_type: str, batch: int, megabytes: float) -> None:
    found = decode_kernel_bytes(layer_type, batch, heads=32, head_dim=64, dtype=torch.float16)
    assert found / MB == pytest.approx(megabytes, abs=0.5 if megabytes > 1000 else 0.05)


@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_against_a_count_of_a_whole_mini_batch(layer_type: str) -> None:
    """One sequence and head of two dimensions, token by token, in elements."""
    f = 2
    matrices, biases, vectors = (
        ([f * f], [f], [f, f]) if layer_type == "linear" else ([4 * f * f] * 2, [4 * f, f], [f, 4 * f, 4 * f, f])
    )
    elements = 0
    for token in range(16):
        elements += sum(matrices) + sum(biases)  # read
        elements += token * sum(vectors)  # those of the tokens before are read
        elements += sum(vectors)  # the token's own are written
        elements += 3 * f + f + 1  # q, k, v, the output, the learning rate
    elements += sum(matrices) + sum(biases)  # written at the end
    found = decode_kernel_bytes(layer_type, batch=3, heads=5, head_dim=f, dtype=torch.float32)
    assert found == pytest.approx(3 * 5 * 4 * elements / 16)


def test_an_unknown_inner_net() -> None:
    with pytest.raises(ValueError, match="layer_type=conv: linear or mlp"):
        decode_kernel_bytes("conv", 1, 1, 64, torch.float16)

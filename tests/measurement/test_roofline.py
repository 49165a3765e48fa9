"""The bytes and operations that a decode step cannot do without, and the time that follows."""

import pytest
import torch

from ttt_mlflow.kernels.inner_layers import decode_kernel_bytes, inner_flops, prompt_kernel_bytes
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.roofline import by_part, floor_ms, stage_ms, total_bytes, total_flops
from ttt_mlflow.workload import FEED_FORWARD, INNER, PROJECTIONS, Stage

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


# Operations of the inner nets


def test_inner_flops_against_a_count_token_by_token() -> None:
    """Each product of a vector of n with a matrix n x k is 2 n k operations."""
    f = 8
    for layer_type, tokens in (("linear", 16), ("linear", 21), ("mlp", 32), ("mlp", 5)):
        flops = 0
        for token in range(tokens):
            seen = token % 16 + 1
            if layer_type == "linear":
                flops += 2 * f * f + 2 * f * f  # k W, q W
                flops += seen * (2 * f + 2 * f)  # q k_i, times g_i
                fold = 2 * f * f
            else:
                flops += 2 * (f * 4 * f) * 2  # k W1, q W1
                flops += 2 * (4 * f * f) * 3  # through W2, back through W2, the query through W2
                flops += seen * (2 * f + 2 * 4 * f + 2 * 4 * f + 2 * f)  # q k_i, g1_i, x2 x2_i, g2_i
                fold = 2 * (f * 4 * f) + 2 * (4 * f * f)
            flops += 16 * fold if seen == 16 else 0
        assert inner_flops(layer_type, tokens, f) == flops


def test_a_prompts_inner_net_moves_its_state_once() -> None:
    f, e = 4, 2
    for layer_type, state, vectors in (("linear", f * f + f, 2 * f), ("mlp", 8 * f * f + 5 * f, 10 * f)):
        elements = state + 3 * vectors + 19 * (4 * f + 1)  # 19 tokens: a whole mini-batch and 3
        assert prompt_kernel_bytes(layer_type, 2, 19, 3, f, torch.float16) == 2 * 3 * e * elements


# The time


CEILINGS = GpuCeilings(read_gb_per_s=1000.0, copy_gb_per_s=900.0, matmul_tflops=2.0)


def test_a_stage_takes_the_larger_of_its_two_times() -> None:
    memory = Stage(INNER, weight_bytes=1e9, state_bytes=3e9, flops=2e9, count=2)
    matrix = Stage(FEED_FORWARD, weight_bytes=1e9, state_bytes=0, flops=8e9, count=3)
    assert stage_ms(memory, CEILINGS) == pytest.approx(8.0)  # 8 GB at 1 TB/s, against 2 ms of operations
    assert stage_ms(matrix, CEILINGS) == pytest.approx(12.0)  # 24 GFLOP at 2 TFLOP/s, against 3 ms of bytes
    assert floor_ms([memory, matrix], CEILINGS) == pytest.approx(20.0), "one after the other"
    assert total_bytes([memory, matrix]) == 8e9 + 3e9
    assert total_flops([memory, matrix]) == 4e9 + 24e9


def test_the_parts_add_up_and_stand_in_their_order() -> None:
    stages = [Stage(INNER, 0, 1e9, 0), Stage(PROJECTIONS, 1e9, 0, 0), Stage(INNER, 0, 2e9, 0)]
    parts = by_part(stages, CEILINGS)
    assert [(part.part, part.bytes, part.milliseconds) for part in parts] == [
        (PROJECTIONS, 1e9, pytest.approx(1.0)),
        (INNER, 3e9, pytest.approx(3.0)),
    ]
    assert [part.milliseconds for part in by_part(stages, None)] == [None, None], "not known is not zero"

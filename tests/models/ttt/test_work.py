"""What a TTT model has to do: against numbers counted by hand, its own weights, and PyTorch's operation counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ttt_mlflow.measurement.roofline import by_part, total_bytes, total_flops
from ttt_mlflow.models.ttt.config import TTTConfig
from ttt_mlflow.models.ttt.initialization import initialize
from ttt_mlflow.models.ttt.inner_nets import INNER_NETS
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import config_of
from ttt_mlflow.models.ttt.work import decode_stages, prefill_stages
from ttt_mlflow.workload import CONVOLUTION, FEED_FORWARD, HEAD, INNER, PROJECTIONS, SAMPLING

# widths that need no padding, so that the model multiplies what is counted: 3 D + H = 832 rows, and 128 words
SMALL = {"hidden_size": 256, "intermediate_size": 192, "num_layers": 2, "num_heads": 64, "vocab_size": 128}
CPU = torch.device("cpu")


@pytest.mark.parametrize(("layer_type", "parameters"), [("linear", 1_323_070_592), ("mlp", 1_345_287_296)])
def test_every_weight_of_ttt_1b_is_read_once(layer_type: str, parameters: int) -> None:
    """A decode step reads all but the inner weights that a sequence's state starts from."""
    config = config_of("ttt-1b", layer_type)
    initial = 24 * 32 * (64 * 64 + 64 if layer_type == "linear" else 2 * 64 * 256 + 256 + 64)
    decode = decode_stages(config, torch.float16, batch=128)
    assert sum(stage.count * stage.weight_bytes for stage in decode) == 2 * (parameters - initial)
    prefill = prefill_stages(config, torch.float16, batch=128, tokens=512)
    assert sum(stage.count * stage.weight_bytes for stage in prefill) == 2 * parameters


def test_a_decode_step_of_ttt_1b_by_hand() -> None:
    """TTT-Linear, batch 128, fp16: 24 layers of width 2048, 32 heads of 64, feed-forward 5504, 50277 words."""
    parts = {
        part.part: part for part in by_part(decode_stages(config_of("ttt-1b", "linear"), torch.float16, 128), None)
    }
    assert set(parts) == {PROJECTIONS, FEED_FORWARD, CONVOLUTION, INNER, HEAD, SAMPLING}
    # weights: 3 · 2048 + 32 rows and 2048 more of 2048; three norm vectors and 32 biases
    assert parts[PROJECTIONS].bytes == 24 * 2 * (8224 * 2048 + 3 * 2048 + 32)
    assert parts[PROJECTIONS].flops == 24 * 2 * 128 * 8224 * 2048 == 103_481_868_288
    assert parts[FEED_FORWARD].bytes == 24 * 2 * (3 * 2048 * 5504 + 2048)
    assert parts[FEED_FORWARD].flops == 24 * 2 * 128 * 3 * 2048 * 5504 == 207_769_042_944
    # three filters of 4 taps and a bias, a norm; two kept inputs, of each 3 read and 1 written
    assert parts[CONVOLUTION].bytes == 24 * 2 * (3 * 5 * 2048 + 2048 + 128 * 8 * 2048)
    # 47.2 MB of state a layer, as the kernels' own floor; two norm vectors and 16 token scales
    inner_elements = 4160 * 17 / 16 + 128 * 8.5 + 257
    assert parts[INNER].bytes == 24 * 2 * (128 * 32 * inner_elements + 2 * 2048 + 16)
    # k W, q W and the fold, 2 · 64² each; 8.5 tokens on average, 4 · 64 each
    assert parts[INNER].flops == 24 * 128 * 32 * (6 * 64**2 + 8.5 * 4 * 64)
    # the table, the last norm, and 128 rows of the table that were looked up
    assert parts[HEAD].bytes == 2 * (50277 * 2048 + 2048 + 128 * 2048)
    assert parts[HEAD].flops == 2 * 128 * 2048 * 50277
    assert (parts[SAMPLING].bytes, parts[SAMPLING].flops) == (128 * 8, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_bytes_follow_the_dtype_and_the_batch(dtype: torch.dtype) -> None:
    config = config_of("ttt-tiny", "mlp")
    one, two, three = (decode_stages(config, dtype, batch) for batch in (1, 2, 3))
    assert total_bytes(two) - total_bytes(one) == total_bytes(three) - total_bytes(two)
    assert total_flops(three) == pytest.approx(3 * total_flops(one))
    halves = decode_stages(config, torch.float16, 1)
    size = dtype.itemsize / 2
    assert total_bytes(one) - 8 == size * (total_bytes(halves) - 8), "all but the sampled token"


def made(config: TTTConfig) -> TTTModel:
    net = INNER_NETS["mlp_1_dual" if config.layer_type == "linear" else "mlp_2_dual"]
    model = TTTModel(config, net, torch.float32, CPU).eval()
    initialize(model, 0)
    return model


def products(config: TTTConfig, batch: int, tokens: int) -> float:
    """Operations of the matrix products outside the inner net."""
    stages = decode_stages(config, torch.float32, batch) if tokens == 1 else prefill_stages(
        config, torch.float32, batch, tokens
    )  # fmt: skip
    return sum(part.flops for part in by_part(stages, None) if part.part in (PROJECTIONS, FEED_FORWARD, HEAD))


@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_a_decode_steps_products_against_pytorchs_counter(layer_type: str) -> None:
    config = TTTConfig(layer_type, **SMALL)
    model, batch = made(config), 3
    state = model.new_state(batch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.step(torch.zeros(batch, dtype=torch.int64), state)
    counted = counter.get_flop_counts()["Global"]
    assert counted[torch.ops.aten.mm] == products(config, batch, 1)


@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_a_prompts_operations_against_pytorchs_counter(layer_type: str) -> None:
    """The inner net too: its dual form multiplies whole squares of 16 x 16 where a triangle is needed."""
    config, batch, tokens = TTTConfig(layer_type, **SMALL), 2, 32
    model = made(config)
    state = model.new_state(batch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.prefill(torch.zeros(batch, tokens, dtype=torch.int64), state)
    counted = counter.get_flop_counts()["Global"]
    assert counted[torch.ops.aten.mm] + counted[torch.ops.aten.addmm] == products(config, batch, tokens)
    parts = {part.part: part for part in by_part(prefill_stages(config, torch.float32, batch, tokens), None)}
    vectors = (2 if layer_type == "linear" else 10) * config.head_dim
    mini_batches = config.num_layers * batch * config.num_heads * tokens // 16
    needless = mini_batches * 2 * vectors * (16 * 16 - 16 * 17 // 2)
    assert counted[torch.ops.aten.bmm] == parts[INNER].flops + needless


@pytest.mark.parametrize("tokens", [1, 15, 16, 40])
def test_a_prompts_bytes_by_hand(tokens: int) -> None:
    """One layer of width 8, two heads of 4, three words' rows at most looked up."""
    config = TTTConfig("linear", 8, 12, 1, 2, vocab_size=3)
    parts = {part.part: part for part in by_part(prefill_stages(config, torch.float32, 5, tokens), None)}
    rows = min(5 * tokens, 3)
    assert parts[HEAD].bytes == 4 * (3 * 8 + 8 + rows * 8)
    assert parts[HEAD].flops == 2 * 5 * 8 * 3, "the last token's logits alone"
    assert parts[CONVOLUTION].bytes == 4 * (3 * 5 * 8 + 8 + 5 * 2 * 3 * 8)
    state = 2 * (16 + 4)
    written = state + 2 * 8 * (tokens % 16) + 2 * tokens * 17
    assert parts[INNER].bytes == 4 * (2 * 8 + 16 + state + 5 * written)

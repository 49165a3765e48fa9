"""The sizes of a checkpoint: its ``config.json``, its vocabulary, its names, its dtypes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tests.models.ttt.test_checkpoint import LAYER, logits_of, refusal, weights
from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.models.ttt.config import TTTConfig
from ttt_mlflow.models.ttt.published_config import config_of_checkpoint
from ttt_mlflow.models.ttt.sizes import build, config_of

__all__ = ["weights"]
TINY = TTTConfig("linear", 128, 352, 2, 2, vocab_size=512)
EMBEDDINGS = "model.embed_tokens.weight"
# what the published model's class writes, with the layout that this package has
PUBLISHED = {
    "architectures": ["TTTForCausalLM"],
    "conv_kernel": 4,
    "hidden_act": "silu",
    "mini_batch_size": 16,
    "model_type": "ttt",
    "pre_conv": True,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "share_qk": True,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "ttt_base_lr": 1.0,
    "ttt_layer_type": "linear",
    "use_gate": True,
}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 40}


def of_sizes(hidden: int, inner: int, heads: int, layers: int, vocabulary: int) -> dict[str, Tensor]:
    dim = hidden // heads
    widths = {2: heads, 64: dim, 128: hidden, 352: inner}
    shapes = {EMBEDDINGS: (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        for name, shape in LAYER.items():
            shapes[f"model.layers.{layer}.{name}"] = tuple(widths.get(extent, extent) for extent in shape)
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def save(folder: Path, content: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Path:
    save_file(dict(content), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def request(checkpoint: Path) -> ModelRequest:
    return ModelRequest("ttt-tiny", "mlp_1_dual", torch.float32, torch.device("cpu"), 0, str(checkpoint))


@pytest.mark.parametrize("config", [None, PUBLISHED, PUBLISHED | {"vocab_size": 40}])
def test_the_vocabulary_is_the_checkpoints(
    config: dict[str, Any] | None, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    weights[EMBEDDINGS] = weights[EMBEDDINGS][:40].clone()
    save(tmp_path, weights, config)
    find_model("ttt-tiny").check(request(tmp_path))
    model = build(request(tmp_path))
    assert model.vocab_size == 40
    state = model.new_state(2)
    assert model.prefill(torch.randint(40, (2, 16)), state).shape == (2, 40)


def test_depth_and_widths_are_the_configurations(tmp_path: Path) -> None:
    save(tmp_path, of_sizes(64, 96, 4, 3, 40), PUBLISHED | SIZES | {"rope_theta": 500})
    config = config_of("ttt-tiny", "linear", str(tmp_path / "model.safetensors"))
    assert config == TTTConfig("linear", 64, 96, 3, 4, vocab_size=40, rope_theta=500.0)
    model = build(request(tmp_path))
    assert len(model.layers) == 3
    assert sum(weight.numel() for weight in model.parameters()) == sum(
        weight.numel() for weight in of_sizes(64, 96, 4, 3, 40).values()
    )


def test_the_work_is_that_of_the_checkpoints_sizes(weights: dict[str, Tensor], tmp_path: Path) -> None:
    from ttt_mlflow.workload import Workload

    entry = find_model("ttt-tiny")
    plain = ModelRequest("ttt-tiny", "mlp_1_dual", torch.float32, torch.device("cpu"), 0, None)
    weights[EMBEDDINGS] = torch.randn(2048, 128)
    save(tmp_path, weights)
    load = Workload("decode", 2, 1, 8)
    assert entry.work
    flops = [sum(float(stage.flops) for stage in entry.work(asked, load)) for asked in (request(tmp_path), plain)]
    assert flops[0] > flops[1]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "a.b.", "module._orig_mod."])
def test_a_prefix_of_all_names(prefix: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    save(tmp_path / "plain", weights)
    save(tmp_path, {f"{prefix}{name}": weight for name, weight in weights.items()})
    assert torch.equal(logits_of(tmp_path), logits_of(tmp_path / "plain"))


def test_names_without_the_first_part(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """As the model without its head saves itself."""
    (tmp_path / "plain").mkdir()
    save(tmp_path / "plain", weights)
    save(tmp_path, {name.removeprefix("model."): weight for name, weight in weights.items()})
    assert torch.equal(logits_of(tmp_path), logits_of(tmp_path / "plain"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_in_another_dtype(dtype: torch.dtype, weights: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "cast").mkdir()
    save(tmp_path / "cast", {name: weight.to(dtype).float() for name, weight in weights.items()})
    save(tmp_path, {name: weight.to(dtype) for name, weight in weights.items()})
    assert torch.equal(logits_of(tmp_path), logits_of(tmp_path / "cast"))


def test_whole_numbers_are_no_weights(weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights["model.norm.weight"] = torch.ones(128, dtype=torch.int8)
    said = refusal(save(tmp_path, weights))
    assert said == "these weights are not of F64, F32, BF16, F16: model.norm.weight I8; convert them"


def test_a_weight_in_two_files(weights: dict[str, Tensor], tmp_path: Path) -> None:
    save(tmp_path, weights)
    save_file({EMBEDDINGS: weights[EMBEDDINGS]}, tmp_path / "a.safetensors")
    assert (
        refusal(tmp_path) == f"{EMBEDDINGS} is in a.safetensors and model.safetensors; give a folder with one of them"
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"ttt_layer_type": "mlp"},
            "ttt_layer_type='mlp'; this inner_net needs 'linear'; give another inner_net",
        ),
        ({"mini_batch_size": 64}, "config.json describes another model: mini_batch_size=64 (here 16)"),
        (
            {"use_gate": False, "share_qk": False},
            "model: use_gate=False (here True), share_qk=False (here True)",
        ),
        ({"ttt_base_lr": 0.1}, "another model: ttt_base_lr=0.1 (here 1.0)"),
        ({"vocab_size": "40"}, "config.json has vocab_size='40'; it takes a whole number from 1 to"),
        ({"hidden_size": 0}, "config.json has hidden_size=0; it takes a whole number"),
        ({"num_hidden_layers": True}, "config.json has num_hidden_layers=True; it takes a whole number"),
        ({"num_hidden_layers": 1_000_000}, "config.json has num_hidden_layers=1000000, and the files have 52 weights"),
        (
            {"num_attention_heads": 3},
            "hidden_size=128, which num_attention_heads=3 does not divide into an even",
        ),
        ({"rope_theta": "x"}, "config.json has rope_theta='x'; it takes a number above 0"),
        ({"vocab_size": 300}, f"1 of a different shape: {EMBEDDINGS} [512, 128], expected [300, 128]"),
    ],
)
def test_a_configuration_that_cannot_be(
    wrong: dict[str, Any], said: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    assert said in refusal(save(tmp_path, weights, PUBLISHED | wrong))


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())
names = st.sampled_from([*PUBLISHED, *SIZES])


@pytest.mark.properties
@given(config=st.dictionaries(names, json_values))
def test_any_configuration_is_taken_or_refused_in_one_line(
    config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "config.json").write_text(json.dumps(config))
    try:
        found = config_of_checkpoint(str(folder), TINY, {EMBEDDINGS: (512, 128)})
    except BadInput as refused:
        lines = str(refused).splitlines()
        assert len(lines) == 1
    else:
        assert found.hidden_size % (2 * found.num_heads) == 0

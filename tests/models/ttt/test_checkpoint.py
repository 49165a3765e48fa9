"""Checkpoints under the published names: what goes out comes in, and what does not fit is listed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.ttt.cases import INNER_NETS, leave_initial_values, make_model, make_tokens
from tests.models.ttt.checkpoints import save_checkpoint
from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.models.ttt.checkpoint import load_checkpoint

# state_dict() of the published model (test-time-training/ttt-lm-pytorch, ttt.py) with use_gate, share_qk, pre_conv and
# tie_word_embeddings, at the widths of ttt-tiny: 128, of 2 heads
LAYER = {
    "seq_modeling_block.W1": (2, 64, 64),
    "seq_modeling_block.b1": (2, 1, 64),
    "seq_modeling_block.learnable_token_idx": (16,),
    "seq_modeling_block.learnable_ttt_lr_weight": (2, 1, 128),
    "seq_modeling_block.learnable_ttt_lr_bias": (2, 1),
    "seq_modeling_block.ttt_norm_weight": (2, 64),
    "seq_modeling_block.ttt_norm_bias": (2, 64),
    "seq_modeling_block.q_proj.weight": (128, 128),
    "seq_modeling_block.v_proj.weight": (128, 128),
    "seq_modeling_block.o_proj.weight": (128, 128),
    "seq_modeling_block.g_proj.weight": (128, 128),
    "seq_modeling_block.conv_q.weight": (128, 1, 4),
    "seq_modeling_block.conv_q.bias": (128,),
    "seq_modeling_block.conv_k.weight": (128, 1, 4),
    "seq_modeling_block.conv_k.bias": (128,),
    "seq_modeling_block.post_norm.weight": (128,),
    "seq_modeling_block.post_norm.bias": (128,),
    "mlp.gate_proj.weight": (352, 128),
    "mlp.up_proj.weight": (352, 128),
    "mlp.down_proj.weight": (128, 352),
    "conv.norm.weight": (128,),
    "conv.conv.weight": (128, 1, 4),
    "conv.conv.bias": (128,),
    "seq_norm.weight": (128,),
    "ffn_norm.weight": (128,),
}
MLP_LAYER = LAYER | {
    "seq_modeling_block.W1": (2, 64, 256),
    "seq_modeling_block.b1": (2, 1, 256),
    "seq_modeling_block.W2": (2, 256, 64),
    "seq_modeling_block.b2": (2, 1, 64),
}
OUTSIDE = {"model.embed_tokens.weight": (512, 128), "model.norm.weight": (128,)}
W1 = "model.layers.0.seq_modeling_block.W1"
NORM = "model.norm.weight"


def published(layer: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the whole model with two such layers."""
    layers = {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    return OUTSIDE | layers


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """A published checkpoint of ttt-tiny with TTT-Linear."""
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in published(LAYER).items()}


def logits_of(checkpoint: Path, inner_net: str = "mlp_1_dual", dtype: torch.dtype = torch.float32) -> Tensor:
    model = make_model(inner_net, dtype=dtype, checkpoint=str(checkpoint))
    return model.prefill(make_tokens(2, 18), model.new_state(2))


def refusal(checkpoint: Path | str, inner_net: str = "mlp_1_dual") -> str:
    """The message with which the checkpoint is refused: before anything is built, and by the loading itself."""
    entry = find_model("ttt-tiny")
    with pytest.raises(BadInput) as refused:
        entry.check(ModelRequest("ttt-tiny", inner_net, torch.float32, torch.device("cpu"), 0, str(checkpoint)))
    with pytest.raises(BadInput):
        make_model(inner_net, checkpoint=str(checkpoint))
    return str(refused.value).removeprefix(f"checkpoint={checkpoint}: ")


@pytest.mark.parametrize(("inner_net", "layer"), [("mlp_1_dual", LAYER), ("mlp_2_dual", MLP_LAYER)])
def test_the_names_are_the_published_ones(inner_net: str, layer: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    save_checkpoint(make_model(inner_net), tmp_path / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(weight.shape) for name, weight in saved.items()} == published(layer)


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_round_trip(inner_net: str, tmp_path: Path) -> None:
    model = leave_initial_values(make_model(inner_net))
    tokens = make_tokens(2, 18)
    file = tmp_path / "model.safetensors"
    save_checkpoint(model, file)
    loaded = make_model(inner_net, seed=1, checkpoint=str(file))
    for (name, weight), (_, again) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(weight, again), name
    assert torch.equal(model.prefill(tokens, model.new_state(2)), loaded.prefill(tokens, loaded.new_state(2)))


def test_loading_replaces_the_weights_of_a_built_model(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """The fused layouts and the token scales are those of the checkpoint."""
    save_file(weights, tmp_path / "model.safetensors")
    model = leave_initial_values(make_model("mlp_1_dual"))
    load_checkpoint(model, str(tmp_path / "model.safetensors"))
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[name]), name
    state = model.new_state(2)
    assert torch.equal(state.layers[1].inner[0][0], weights["model.layers.1.seq_modeling_block.W1"])
    assert torch.equal(model.prefill(make_tokens(2, 18), state), logits_of(tmp_path))


def test_a_folder_of_shards(weights: dict[str, Tensor], tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole.safetensors", tmp_path / "sharded"
    save_file(weights, whole)
    folder.mkdir()
    names = list(weights)
    for shard in range(3):
        part = {name: weights[name] for name in names[shard::3]}
        save_file(part, folder / f"model-{shard + 1:05}-of-00003.safetensors")
    (folder / "config.json").write_text("{}")
    assert torch.equal(logits_of(folder), logits_of(whole))
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert refusal(folder).startswith(f"does not fit ttt-tiny mlp_1_dual; weights {len(names[1::3])} missing: ")


def test_weights_that_others_save_as_well_are_passed_over(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """The tied head, and buffers that older versions of the published model kept."""
    save_file(weights, tmp_path / "plain.safetensors")
    block = "model.layers.0.seq_modeling_block"
    more = {
        "lm_head.weight": weights["model.embed_tokens.weight"].clone(),
        f"{block}.rotary_emb.inv_freq": torch.ones(32),
        f"{block}.token_idx": torch.ones(16),
    }
    save_file(weights | more, tmp_path / "more.safetensors")
    assert torch.equal(logits_of(tmp_path / "more.safetensors"), logits_of(tmp_path / "plain.safetensors"))


def test_a_float16_checkpoint_in_a_float32_model(weights: dict[str, Tensor], tmp_path: Path) -> None:
    halves = {name: weight.half() for name, weight in weights.items()}
    save_file(halves, tmp_path / "half.safetensors")
    save_file({name: weight.float() for name, weight in halves.items()}, tmp_path / "same.safetensors")
    model = make_model("mlp_1_dual", checkpoint=str(tmp_path / "half.safetensors"))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert torch.equal(logits_of(tmp_path / "half.safetensors"), logits_of(tmp_path / "same.safetensors"))
    assert logits_of(tmp_path / "half.safetensors", dtype=torch.float16).dtype == torch.float16


# What does not fit


def test_missing_unexpected_and_misshapen_weights_are_listed(weights: dict[str, Tensor], tmp_path: Path) -> None:
    del weights[NORM]
    weights["model.layers.2.ffn_norm.weight"] = torch.ones(128)
    weights[W1] = torch.ones(2, 32, 64)
    save_file(weights, tmp_path / "model.safetensors")
    assert refusal(tmp_path / "model.safetensors") == (
        f"does not fit ttt-tiny mlp_1_dual; weights 1 missing: {NORM}; "
        "1 unexpected: model.layers.2.ffn_norm.weight; "
        f"1 of a different shape: {W1} [2, 32, 64], expected [2, 64, 64]"
    )


def test_a_checkpoint_of_the_other_inner_net(weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors", "mlp_2_dual")
    assert message.startswith("does not fit ttt-tiny mlp_2_dual; weights 4 missing: ")
    assert "model.layers.1.seq_modeling_block.W2" in message
    assert f"{W1} [2, 64, 64], expected [2, 64, 256]" in message


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors")
    assert message.startswith(f"does not fit ttt-tiny mlp_1_dual; weights {len(published(LAYER))} missing: ")
    assert message.endswith(" and more; 1 unexpected: x")


def test_a_model_is_left_alone_by_a_checkpoint_that_does_not_fit(weights: dict[str, Tensor], tmp_path: Path) -> None:
    del weights[NORM]
    save_file(weights, tmp_path / "model.safetensors")
    model = make_model("mlp_1_dual")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with pytest.raises(BadInput, match=NORM):
        load_checkpoint(model, str(tmp_path / "model.safetensors"))
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle", b"\xff" * 64])
def test_another_format(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert refusal(tmp_path / "pytorch_model.bin").startswith("pytorch_model.bin is not a readable safetensors file (")


def test_a_file_that_was_cut_off(weights: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    file.write_bytes(file.read_bytes()[:-100])
    assert refusal(file).startswith("model.safetensors is not a readable safetensors file (")


def test_nothing_there(tmp_path: Path) -> None:
    absent = tmp_path / "absent.safetensors"
    assert refusal(absent) == "no such file or folder; give a safetensors file or a folder of them"
    assert refusal(tmp_path) == "the folder has no *.safetensors file; give another folder"


def test_a_file_in_the_home_folder(weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(weights, tmp_path / "model.safetensors")
    assert torch.equal(logits_of(Path("~/model.safetensors")), logits_of(tmp_path / "model.safetensors"))

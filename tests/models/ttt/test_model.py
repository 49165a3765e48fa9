"""The TTT models against the paper's equations, a prompt in either form, and how the weights are kept."""

import pytest
import torch
from torch import Tensor

from tests.kernels.decode_cases import relative_error
from tests.models.ttt.cases import (
    INNER_NETS,
    assert_same_state,
    decode,
    leave_initial_values,
    make_model,
    make_tokens,
    published_logits,
)
from ttt_mlflow.models.entry import DecodeModel
from ttt_mlflow.models.ttt.inner_nets import INNER_NETS as KNOWN_NETS
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import SIZES, config_of
from ttt_mlflow.models.ttt.state import TTTState

MINI_BATCH = 16
CPU, META = torch.device("cpu"), torch.device("meta")
LAYER_TYPES = ("linear", "mlp")


@pytest.mark.parametrize("inner_net", ["mlp_1_dual", "mlp_1_dual_triton", "mlp_2_dual", "mlp_2_dual_triton"])
def test_parameter_count_of_1b(inner_net: str) -> None:
    net = KNOWN_NETS[inner_net]
    model = TTTModel(config_of("ttt-1b", net.layer_type), net, torch.float16, META)
    assert model.parameter_count() == (1_323_070_592 if inner_net.startswith("mlp_1") else 1_345_287_296)


def test_widths() -> None:
    widths = {name: (config_of(name, "linear").hidden_size, config_of(name, "linear").head_dim) for name in SIZES}
    assert widths == {
        "ttt-125m": (768, 64),
        "ttt-350m": (1024, 64),
        "ttt-760m": (1536, 96),
        "ttt-1b": (2048, 64),
        "ttt-profile": (2048, 64),
        "ttt-tiny": (128, 64),
    }
    assert {config_of(name, "mlp").vocab_size for name in SIZES if name != "ttt-tiny"} == {50277}


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_is_a_decode_model(inner_net: str) -> None:
    assert isinstance(make_model(inner_net), DecodeModel)


# Against the paper's equations


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-6), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_decode_matches_the_equations_in_float64(inner_net: str, dtype: torch.dtype, limit: float) -> None:
    """Two and a half mini-batches: logits at every position, and how the inner weights have changed."""
    model = leave_initial_values(make_model(inner_net, dtype=dtype))
    tokens = make_tokens(3, 40)
    state = model.new_state(3)
    initial = [[tensor.clone() for tensor in layer.inner] for layer in state.layers]
    expected, expected_inner = published_logits(model, tokens)
    logits = decode(model, tokens, state)
    for position in range(tokens.shape[1]):
        assert relative_error(logits[:, position], expected[:, position]) < limit
    for layer, before, after in zip(state.layers, initial, expected_inner, strict=True):
        for tensor, begin, end in zip(layer.inner, before, after, strict=True):
            assert relative_error(tensor - begin, end - begin.double()) < 10 * limit


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)], ids=str)
@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_narrow_dtypes_stay_near(inner_net: str, dtype: torch.dtype, limit: float) -> None:
    model = leave_initial_values(make_model(inner_net, dtype=dtype))
    tokens = make_tokens(2, 24)
    expected, _ = published_logits(model, tokens)
    assert relative_error(decode(model, tokens, model.new_state(2)), expected) < limit


# the other inner net has no weight that this one lacks
@pytest.mark.parametrize("inner_net", [pytest.param("mlp_1_dual", marks=pytest.mark.long), "mlp_2_dual"])
def test_every_weight_has_an_effect(inner_net: str) -> None:
    """Otherwise the comparison above would say nothing about it."""
    model = leave_initial_values(make_model(inner_net))
    tokens = make_tokens(1, 17)
    expected = decode(model, tokens, model.new_state(1))
    for name, weight in model.named_parameters():
        kept = weight.clone()
        weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
        model.weights_changed()
        assert relative_error(decode(model, tokens, model.new_state(1)), expected) > 1e-5, name
        weight.copy_(kept)
    model.weights_changed()
    assert torch.equal(decode(model, tokens, model.new_state(1)), expected)


# A prompt, in the dual form and token by token


@pytest.mark.parametrize("length", [1, 3, 16, 40, *(pytest.param(one, marks=pytest.mark.long) for one in (15, 17))])
@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_a_prompt_leads_to_the_same_state_in_either_form(inner_net: str, length: int) -> None:
    model = leave_initial_values(make_model(inner_net))
    tokens, more = make_tokens(3, length), make_tokens(3, 20, seed=2)
    at_once, one_by_one = model.new_state(3), model.new_state(3)
    assert relative_error(model.prefill(tokens, at_once), decode(model, tokens, one_by_one)[:, -1]) < 1e-5
    assert_same_state(at_once, one_by_one, 1e-5)
    # and so it goes on, over the end of the mini-batch
    assert relative_error(decode(model, more, at_once), decode(model, more, one_by_one)) < 1e-5
    assert_same_state(at_once, one_by_one, 1e-5)


@pytest.mark.parametrize("lengths", [(1, 1, 1, 5), (7, 20), (16, 3, 29), (33, 16)], ids=str)
@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_a_prompt_may_begin_at_any_position(inner_net: str, lengths: tuple[int, ...]) -> None:
    model = leave_initial_values(make_model(inner_net))
    tokens = make_tokens(3, sum(lengths))
    whole, in_pieces = model.new_state(3), model.new_state(3)
    for layer in in_pieces.layers:
        for slots in layer.slots:
            slots.fill_(torch.nan)  # what no token of this sequence has written is not read
    expected = model.prefill(tokens, whole)
    for piece in tokens.split(lengths, 1):
        logits = model.prefill(piece, in_pieces)
    assert relative_error(logits, expected) < 1e-5
    assert_same_state(whole, in_pieces, 1e-5)


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_a_long_prompt_goes_through_in_parts(inner_net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = leave_initial_values(make_model(inner_net))
    tokens = make_tokens(2, 80)
    whole, in_parts = model.new_state(2), model.new_state(2)
    expected = model.prefill(tokens, whole)
    monkeypatch.setattr("ttt_mlflow.models.ttt.model.PREFILL_TOKENS", 2 * 30)  # 30 tokens at a time
    assert relative_error(model.prefill(tokens, in_parts), expected) < 1e-5
    assert_same_state(whole, in_parts, 1e-5)


def test_a_prompt_without_tokens_is_refused() -> None:
    model = make_model("mlp_1_dual")
    with pytest.raises(ValueError, match="a prompt of 0 tokens: prefill takes one or more"):
        model.prefill(make_tokens(2, 0), model.new_state(2))


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_sequences_of_a_batch_do_not_meet(inner_net: str) -> None:
    model = leave_initial_values(make_model(inner_net))
    tokens = make_tokens(3, 20)
    together = model.prefill(tokens, model.new_state(3))
    for index in range(3):
        alone = model.prefill(tokens[index : index + 1], model.new_state(1))
        assert relative_error(alone[0], together[index]) < 1e-5


def carried(state: TTTState) -> list[Tensor]:
    """What goes from one mini-batch to the next."""
    return [state.position, *(t for layer in state.layers for t in (layer.conv, layer.qk_conv, *layer.inner))]


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_reset_puts_the_state_back_in_place(inner_net: str) -> None:
    model = leave_initial_values(make_model(inner_net))
    tokens = make_tokens(2, 21)
    state = model.new_state(2)
    tensors, initial = carried(state), [tensor.clone() for tensor in carried(state)]
    first = decode(model, tokens, state)
    assert int(state.position) == 21 % MINI_BATCH
    assert not any(torch.equal(tensor, begin) for tensor, begin in zip(tensors, initial, strict=True))
    model.reset_state(state)
    assert all(tensor is same for tensor, same in zip(tensors, carried(state), strict=True))
    assert all(torch.equal(tensor, begin) for tensor, begin in zip(tensors, initial, strict=True))
    assert torch.equal(decode(model, tokens, state), first)


def test_what_an_earlier_sequence_left_is_not_read() -> None:
    """The vectors of a mini-batch are not cleared: whatever they hold, NaN included, must not matter."""
    model = leave_initial_values(make_model("mlp_2_dual"))
    tokens = make_tokens(2, 5)
    expected = decode(model, tokens, model.new_state(2))
    state = model.new_state(2)
    for layer in state.layers:
        for slots in layer.slots:
            slots.fill_(torch.nan)
    assert torch.equal(decode(model, tokens, state), expected)


# The weights


def test_initial_values() -> None:
    weights = dict(make_model("mlp_2_dual").named_parameters())
    block = "model.layers.0.seq_modeling_block"
    ones = [name for name in weights if "norm" in name and name.endswith(("weight", "norm_weight"))]
    zeros = [f"{block}.{name}" for name in ("b1", "b2", "learnable_ttt_lr_bias", "learnable_token_idx")]
    zeros += [f"{block}.ttt_norm_bias", f"{block}.post_norm.bias"]
    assert all((weights[name] == 1).all() for name in ones)
    assert all((weights[name] == 0).all() for name in zeros)
    for name in ("W1", "W2", "q_proj.weight", "o_proj.weight", "learnable_ttt_lr_weight"):
        assert float(weights[f"{block}.{name}"].std()) == pytest.approx(0.02, rel=0.1)
    assert float(weights[f"{block}.conv_q.weight"].abs().max()) <= 0.5


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_fused_weights_follow_the_published_ones(inner_net: str) -> None:
    """Every fused tensor is the published weights, laid side by side, whatever is written into those."""
    model = make_model(inner_net)
    for name, weight in model.named_parameters():
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    model.weights_changed()
    assert torch.equal(model.model.table[:512], model.model.embed_tokens.weight)
    for layer in model.layers:
        block, mlp = layer.seq_modeling_block, layer.mlp
        rows = [block.q_proj.weight, block.v_proj.weight, block.g_proj.weight, block.learnable_ttt_lr_weight.squeeze(1)]
        rows.append(torch.zeros(block.projection.shape[0] - sum(len(part) for part in rows), 128))  # padding
        assert torch.equal(block.projection, torch.cat(rows))
        assert torch.equal(mlp.gate_up, torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)))
        for conv in (layer.conv.conv, block.conv_q, block.conv_k):
            assert conv.weight.shape == (128, 1, 4)
            assert torch.equal(conv.taps, conv.weight.squeeze(1).t())
        steps = torch.arange(1, MINI_BATCH + 1)
        assert torch.equal(block.eta, (1 / steps + block.learnable_token_idx).clamp_min(0))


def test_token_scales_are_never_negative() -> None:
    model = make_model("mlp_1_dual")
    block = model.layers[0].seq_modeling_block
    block.learnable_token_idx.fill_(-0.3)
    model.weights_changed()
    torch.testing.assert_close(block.eta[:3], torch.tensor([0.7, 0.2, 1 / 3 - 0.3]))
    assert (block.eta[3:] == 0).all()

"""The transformer against the papers' equations, on a CPU: in steps, from a prompt, compiled, at the cache's ends."""

import os
import shutil

import pytest
import torch

from tests.kernels.decode_cases import relative_error
from tests.models.generation import generate
from tests.models.transformer.cases import CONFIGS, GQA, make_model, make_tokens, plain_logits, step_logits
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.transformer import attention
from ttt_mlflow.models.transformer import model as transformer
from ttt_mlflow.models.transformer.config import TransformerConfig
from ttt_mlflow.models.transformer.model import TransformerModel
from ttt_mlflow.workload import Workload

CPU = torch.device("cpu")
LIMIT = 1e-5  # of float32
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
BOTH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@BOTH
@pytest.mark.parametrize("batch", [1, 3])
def test_steps_are_the_equations(batch: int, config: TransformerConfig) -> None:
    model, tokens = make_model(config), make_tokens(batch, 21)
    assert relative_error(step_logits(model, tokens, 21), plain_logits(model, tokens)) < LIMIT


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 1e-2), (torch.bfloat16, 6e-2), (torch.float64, 1e-12)])
def test_other_dtypes(dtype: torch.dtype, limit: float) -> None:
    model, tokens = make_model(GQA, dtype), make_tokens(2, 9)
    expected = plain_logits(model, tokens)
    assert relative_error(step_logits(model, tokens, 9), expected) < limit
    assert relative_error(model.prefill(tokens, model.new_cache(2, 9)), expected[:, -1]) < limit


@BOTH
@pytest.mark.parametrize("length", [1, 2, 17])
def test_a_prompt_is_what_the_steps_do(length: int, config: TransformerConfig) -> None:
    model, tokens = make_model(config), make_tokens(3, length + 4)
    state = model.new_cache(3, length + 4)
    found = [model.prefill(tokens[:, :length], state)]
    found += [model.step(token, state) for token in tokens[:, length:].unbind(1)]
    expected = plain_logits(model, tokens)
    assert relative_error(torch.stack(found, 1), expected[:, length - 1 :]) < LIMIT
    assert state.position.tolist() == [length + 4]


def test_sequences_go_through_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two, two and one; a sequence that is longer than a group goes alone."""
    model, tokens = make_model(GQA), make_tokens(5, 7)
    for most in (15, 3):
        monkeypatch.setattr(transformer, "PREFILL_TOKENS", most)
        state = model.new_cache(5, 8)
        logits = [model.prefill(tokens, state), model.step(tokens[:, 0], state)]
        expected = plain_logits(model, torch.cat((tokens, tokens[:, :1]), 1))[:, -2:]
        assert relative_error(torch.stack(logits, 1), expected) < LIMIT


@pytest.mark.skipif(not CXX, reason="compiling for a CPU needs a C++ compiler")
@BOTH
def test_compiled_decode_gives_the_tokens_of_eager_decode(config: TransformerConfig) -> None:
    model, prompt = make_model(config), make_tokens(3, 5)
    decoder = ModelDecoder(model, 3, CPU, 45)
    eager = generate(decoder, prompt, 40)
    assert all(sequence.unique().numel() > 10 for sequence in eager), "tokens that hardly vary say nothing"
    decoder.compile()
    decoder.warm_up()
    with torch.compiler.set_stance("fail_on_recompile"):  # the warm-up compiles what every position needs
        assert torch.equal(generate(decoder, prompt, 40), eager)


def test_nothing_is_read_that_was_not_written() -> None:
    """Neither of the sequence before, nor of what was in the memory."""
    model, tokens = make_model(GQA), make_tokens(2, 9)
    expected = plain_logits(model, tokens)
    state = model.new_cache(2, 12)
    for kept in state.layers:
        kept.k.fill_(float("nan"))
        kept.v.fill_(float("nan"))
    for _ in range(2):
        model.reset_state(state)
        model.prefill(tokens[:, :6], state)
        for index in range(6, 9):
            logits = model.step(tokens[:, index], state)
            assert relative_error(logits, expected[:, index]) < LIMIT


def test_a_full_cache() -> None:
    """It takes as many tokens as it has positions, and no more."""
    model, tokens = make_model(GQA), make_tokens(2, 8)
    decoder = ModelDecoder(model, 2, CPU, 8)
    first = generate(decoder, tokens[:, :5], 4)
    assert decoder.state.position.tolist() == [8]
    with pytest.raises(ValueError, match=r"room for 8 tokens of a sequence: 8 were fed, 1 more do not fit"):
        decoder.step()
    with pytest.raises(ValueError, match=r"0 were fed, 9 more do not fit"):
        decoder.prefill(make_tokens(2, 9))
    assert torch.equal(generate(decoder, tokens[:, :5], 4), first)
    with pytest.raises(ValueError, match=r"a prompt of 9 tokens: the cache takes 1 to 8"):
        model.prefill(make_tokens(2, 9), decoder.state)
    with pytest.raises(ValueError, match="max_length must be given"):
        ModelDecoder(model, 2, CPU)


@pytest.mark.parametrize(
    ("mode", "promptlen", "recorded"),
    [("decode", 1, "math"), ("decode", 2, "flash+math"), ("prefill", 2, "flash"), ("prefill", 1, "math")],
)
def test_what_is_recorded_is_what_is_used(mode: str, promptlen: int, recorded: str) -> None:
    model = TransformerModel(GQA, torch.float32, CPU, workload=Workload(mode, 2, promptlen, 3))
    model.choose(model.new_cache(2, 30))
    assert model.attn_impl == recorded
    assert attention.asked_for(recorded).step in (None, "math")


def test_a_model_in_float64_is_for_comparison() -> None:
    """Whatever the run that it is compared with asked for."""
    model = make_model(GQA, torch.float64, attn_impl="flash+split_kv_triton")
    assert model.choice.step == "math"
    tokens = make_tokens(1, 5)
    assert relative_error(step_logits(model, tokens, 5), plain_logits(model, tokens)) < 1e-12


def test_a_prompt_alone_asks_for_no_attention_of_a_step() -> None:
    """Which may be one that does not run with these heads."""
    model = TransformerModel(GQA, torch.float32, CPU, "math", Workload("prefill", 2, 5, 3))
    assert (model.asked.prompt, model.asked.step, model.attn_impl) == ("math", None, "math")

"""The attentions: what a name asks for, and that those of PyTorch decode what ours does."""

import pytest
import torch

from tests.kernels.decode_cases import relative_error
from tests.models.transformer.cases import GQA, make_model, make_tokens
from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels.attention import reference
from ttt_mlflow.models.transformer import attention


def test_attention_with_a_mask_is_that_of_the_twin() -> None:
    """As PyTorch's attentions decode on a GPU; here with the one that a CPU has."""
    model, tokens = make_model(GQA), make_tokens(2, 7)
    state = model.new_cache(2, 12)
    model.prefill(tokens, state)
    qkv = torch.randn(2, GQA.projected)
    kept = state.layers[0]
    k, v = kept.k.clone(), kept.v.clone()
    before = (qkv, state.position, state.cos, state.sin)
    expected = reference.decode_attention(*before, kept.k, kept.v, GQA.num_heads)
    mask = attention.step_mask(state.position, state.length, torch.float32)
    found = attention.masked_attention(reference, "math", (*before, k, v), GQA.num_heads, mask)
    assert relative_error(found, expected) < 1e-6
    assert torch.equal(k, kept.k)
    assert torch.equal(v, kept.v)


def test_an_attention_that_was_asked_for() -> None:
    assert attention.asked_for(None) == attention.Asked(None, None)
    assert attention.asked_for("flash") == attention.Asked("flash", None)
    assert attention.asked_for("split_kv_triton") == attention.Asked(None, "split_kv_triton")
    assert attention.asked_for("cudnn") == attention.Asked("cudnn", "cudnn")
    assert attention.asked_for("flash+efficient") == attention.Asked("flash", "efficient")
    for wrong in ("", "flush", "flash+", "+math", "math+flash", "split_kv_triton+math", "a+b+c"):
        with pytest.raises(BadInput, match="attn_impl="):
            attention.asked_for(wrong)
    assert make_model(GQA, attn_impl="math").attn_impl == "math+math"

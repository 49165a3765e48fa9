"""Prompts through fla's layers in Triton's interpreter, on a CPU. Run by test_models.py with TRITON_INTERPRET=1."""

import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
import triton.language as tl
from fla.ops.common import chunk_delta_h
from fla.ops.generalized_delta_rule.dplr import chunk_h_fwd
from triton.runtime.autotuner import Autotuner, Heuristics

from benchmarks import peer_loops
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.fla import gated_delta, model, rwkv7
from ttt_mlflow.models.fla.package import block_classes
from ttt_mlflow.models.fla.sizes import GATED_DELTA, RWKV7

KINDS: dict[str, Any] = {"gated_deltanet": gated_delta, "rwkv7": rwkv7}


def build(name: str) -> Any:
    module, size = KINDS[name], (GATED_DELTA | RWKV7)[f"{name.replace('_', '-')}-tiny"]
    kind = module.GatedDeltaModelWithPrefill if module is gated_delta else module.Rwkv7ModelWithPrefill
    made = kind(size, torch.float32, torch.device("cpu")).eval()
    module.initialize(made, 0)
    return made


def tune_nothing() -> None:
    """The interpreter measures nothing: one configuration of each kernel."""
    for name, module in list(sys.modules.items()):
        for value in list(vars(module).values()) if name.startswith("fla.") else []:
            while isinstance(value, Heuristics):
                value = value.fn
            if isinstance(value, Autotuner):
                value.configs = value.configs[:1]


def counted_with_tensors(*bounds: Any) -> Iterator[Any]:
    """``range`` as a GPU has it: fla's kernels convert their loop variables, which are Python's in the interpreter."""
    for i in range(*(int(one) if isinstance(one, int) else int(one.handle.data.item()) for one in bounds)):
        yield tl.full((), i, tl.int32)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_a_prompt_in_chunks_leads_to_the_same_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole chunk and a rest, through fla's kernels for long prompts."""
    block_classes(name)
    tune_nothing()
    for module in (chunk_delta_h, chunk_h_fwd):
        monkeypatch.setattr(module, "range", counted_with_tensors, raising=False)
    made = build(name)
    prompt = torch.randint(512, (1, 70))
    at_once, by_token = made.new_state(1), made.new_state(1)
    logits = made.prefill(prompt, at_once)
    for token in prompt.unbind(1):
        expected = made.step(token, by_token)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    for one, other in zip(at_once.layers, by_token.layers, strict=True):
        torch.testing.assert_close(one.recurrent, other.recurrent, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_a_prompt_leads_to_the_same_state_either_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two parts, the second of which goes on with the state of the first; after a token through the step."""
    block_classes(name)
    tune_nothing()
    monkeypatch.setattr(model, "PREFILL_TOKENS", 8)  # four of each sequence
    made = build(name)
    prompt = torch.randint(512, (2, 8))
    at_once, by_token = made.new_state(2), made.new_state(2)
    for token in prompt[:, :1].unbind(1):
        made.step(token, at_once)
    logits = made.prefill(prompt[:, 1:], at_once)
    for token in prompt.unbind(1):
        expected = made.step(token, by_token)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    for one, other in zip(at_once.layers, by_token.layers, strict=True):
        for field in fields(one):
            if field.name != "conv":  # its slots may begin elsewhere
                torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), atol=1e-5, rtol=1e-4)
    for _ in range(5):
        token = torch.randint(512, (2,))
        torch.testing.assert_close(made.step(token, at_once), made.step(token, by_token), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_the_packages_own_model_with_our_weights_says_the_same(name: str) -> None:
    """The other side of benchmarks/peer_loops.py, with fla's own cache: as many tokens as the steps generate."""
    made = build(name)
    made.embeddings.mul_(0.1)  # for tokens that vary
    size = f"{name.replace('_', '-')}-tiny"
    package = peer_loops.package_model(made, size)
    tune_nothing()
    assert package.lm_head.weight.data_ptr() == made.embeddings.data_ptr(), "no weight is there twice"
    prompt = torch.randint(512, (2, 3))
    theirs = peer_loops.fla_loop(package, made.vocab_size, 4)(prompt)
    stepped = {"gated_deltanet": gated_delta.GatedDeltaModel, "rwkv7": rwkv7.Rwkv7Model}[name]
    made.__class__ = stepped  # its prompt goes token by token
    assert torch.equal(peer_loops.own_loop(ModelDecoder(made, 2, torch.device("cpu")), 4)(prompt), theirs)

"""The choice among attentions; tests/kernels/interpreted_attention.py has that of a whole model."""

import logging
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.models.transformer.cases import GQA, make_model
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.models.transformer import choice
from ttt_mlflow.models.transformer.choice import Timing, fastest
from ttt_mlflow.workload import Workload


def failing(error: Exception) -> choice.Timed:
    def timed() -> float:
        raise error

    return timed


def test_the_fastest_of_those_that_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    timed = {"slow": lambda: 2.0, "broken": failing(RuntimeError("No available kernel.\nmore")), "fast": lambda: 1.0}
    assert fastest("attention", timed, None) == Timing("fast", 1.0)
    assert "attention: slow takes 2.0000 ms" in caplog.text
    assert "attention: not available: broken: RuntimeError: No available kernel." in caplog.text


@pytest.mark.parametrize(
    ("asked", "said"),
    [("a", "attn_impl=a: a prompt does not run here (a: "), (None, "attn_impl: a prompt does not run here (a: ")],
)
def test_nothing_runs(asked: str | None, said: str) -> None:
    with pytest.raises(RunFailed) as failed:
        fastest("a prompt", {"a": failing(torch.OutOfMemoryError("too large"))}, asked)
    assert str(failed.value).startswith(said)
    assert "too large" in str(failed.value)


def test_a_fault_of_the_program_is_no_missing_attention() -> None:
    with pytest.raises(KeyError):
        fastest("a prompt", {"a": failing(KeyError("name"))}, None)


def test_the_one_that_keeps_all_scores_is_for_where_nothing_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with float64; here because the others are made to fail."""
    tried: list[str] = []

    def prompt_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, name: str) -> None:
        tried.append(name)
        assert k.shape == (2, 2, 7, 16)
        if name != "math":
            raise RuntimeError("no kernel")

    def eager_ms(call: choice.Timed, device: torch.device) -> float:
        call()
        return 1.0

    monkeypatch.setattr(choice.attention, "prompt_attention", prompt_attention)
    monkeypatch.setattr(choice, "_eager_ms", eager_ms)
    workload = Workload("prefill", 2, 7, 1)
    model = make_model(GQA, workload=workload)
    choice.choose(model, model.new_cache(2, workload.max_length()), workload)
    assert tried == ["cudnn", "flash", "efficient", "math"]
    assert model.attn_impl == "math"


def test_kernels_that_overlap_are_timed_as_a_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention alone says little then: what starts early fills the multiprocessors that are free first."""
    model = make_model(GQA, workload=Workload("decode", 2, 300, 41))
    timed: list[tuple[str, dict[str, int]]] = []
    state = model.new_cache(2, 400)

    def whole_step(tokens: torch.Tensor, next_tokens: torch.Tensor) -> torch.Tensor:
        assert state.position.item() == 320, "the mean of a pass"
        timed.append((model.choice.step, dict(model.choice.launch)))
        return tokens

    def milliseconds(call: choice.Timed, calls: int, device: torch.device) -> float:
        step, launch = timed[-1]
        state.position.add_(7)  # as the replays do
        best = {"splits": 1, "block": 32, "early": False}.items()
        return 2.0 - sum(launch[name] == value for name, value in best) if step == "split_kv_triton" else 3.0

    state = replace(state, whole_step=whole_step)
    monkeypatch.setattr(choice, "multiprocessors_of", lambda device: 132)
    monkeypatch.setattr(choice, "warm_stream", lambda device, call: call())
    monkeypatch.setattr(choice, "captured", lambda stream: nullcontext(SimpleNamespace(replay=None)))
    monkeypatch.setattr(choice, "_median_ms", milliseconds)
    monkeypatch.setattr(choice, "_prompt", lambda *given: "flash")
    choice.choose(model, state, Workload("decode", 2, 300, 41))
    assert model.choice.step == "split_kv_triton"
    chosen = model.choice.launch
    assert (chosen["splits"], chosen["block"], chosen["early"]) == (1, 32, False)
    assert {step for step, _ in timed} == {"split_kv_triton", "cudnn", "efficient"}
    assert [launch for step, launch in timed if step != "split_kv_triton"] == [{}] * 4

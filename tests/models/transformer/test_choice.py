"""The choice among attentions; tests/kernels/interpreted_attention.py has that of a whole model."""

import logging

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

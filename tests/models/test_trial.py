"""What `ttt-mlflow models --check` finds out about a model."""

import os
import re
import tempfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tests.installed import Install, installed
from ttt_mlflow.cli import cli
from ttt_mlflow.models import trial
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.models.trial import try_model
from ttt_mlflow.plugins import Trial
from ttt_mlflow.run import machine

__all__ = ["installed"]
# the model of docs/adding-a-model.md, with all that is optional; a test replaces some lines
CODE = """
import torch
from ttt_mlflow.models import ModelEntry
from ttt_mlflow.workload import HEAD, Stage

class Toy(torch.nn.Module):
    vocab_size = 1000

    def __init__(self, request):
        super().__init__()
        torch.manual_seed(request.seed)
        where = {"dtype": request.dtype, "device": request.device}
        self.where, self.table = where, torch.nn.Embedding(self.vocab_size, 64, **where)

    def new_state(self, batch):
        return torch.zeros(batch, 64, **self.where)

    def reset_state(self, state):
        state.zero_()

    def step(self, tokens, state):
        state.mul_(0.9).add_(self.table(tokens))
        return state @ self.table.weight.T

    def prefill(self, tokens, state):
        for token in tokens.unbind(1):
            logits = self.step(token, state)
        return logits

    def parameter_count(self):
        return self.table.weight.numel()

    def memory_parts(self, state):
        return {"weights": [self.table.weight], "state": [state]}

def work(request, workload):
    return [Stage(HEAD, 100, 10, 1000)]

entry = ModelEntry("toy", Toy, "a toy", work=work)
"""
LAST = "work() counts bytes and operations"


def check(name: str) -> Result:
    return CliRunner().invoke(cli, ["models", "--check", name])


def changed(*pairs: str) -> str:
    code = CODE
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in code
        code = code.replace(old, new)
    return code


def test_a_model_that_is_right(installed: Install) -> None:
    installed("ttt_mlflow.models", "toys", CODE, "mine = toys:entry")
    for name in ("toy", "mine"):  # the model's name, and the plugin's
        done = check(name)
        assert done.exit_code == 0, done.output
        first, *checks, last = done.stdout.splitlines()
        assert first.startswith("ok       toys 1.0 can be imported (")
        assert last == "All checks hold."
        assert checks[0] == "toy on cpu"
        assert all(re.fullmatch(r"ok       .* \(\d+\.\d\d s\)", line) for line in checks[1:])
        assert checks[-1].startswith(f"ok       {LAST}")


def test_kernels_go_where_there_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "")  # so that what is set here is forgotten
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setenv("TRITON_HOME", "/proc/nobody/may/write")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(machine, "choose_device", lambda device, notices: "cuda")
    used: list[str] = []
    monkeypatch.setattr(trial, "try_model", lambda *_: used.append(os.environ["TRITON_CACHE_DIR"]))
    done = check("ttt-tiny")
    assert done.exit_code == 0, done.output
    assert Path(*used).is_relative_to(tmp_path)
    assert done.stderr.startswith("Note: Triton's cache /proc/nobody/may/write/.triton/cache is not writable")


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (
            ["self.vocab_size, 64", "1000, 64", "vocab_size = 1000", "vocab_size = 1000.0"],
            "vocab_size is 1000.0, not a whole number above 0",
        ),
        (["def reset_state", "def reset"], "Toy has no reset_state"),
        (["state.zero_()", "pass"], "reset_state is the start of a sequence: the same tokens give other logits"),
        (
            ["        return state @", "        return (state @", "weight.T\n", "weight.T).argmax(-1)\n"],
            "not [2, 1000]",
        ),
        (["return state @", "return torch.nan * state @"], "step returns NaN or infinite numbers"),
        (["        state.mul_(0.9)", "        tokens.zero_()\n        state.mul_(0.9)"], "step changes the tokens"),
        (["        state.mul_(0.9)", "        print('step')\n        state.mul_(0.9)"], "it prints: step"),
        (["        state.mul_(0.9)", "        import sys; sys.exit(3)\n        state.mul_(0.9)"], "SystemExit: 3"),
        (["tokens.unbind(1)", "tokens.unbind(1)[1:]"], "prefill and step give different logits"),
        (["return self.table.weight.numel()", "return 0.5"], "parameter_count() is a number: it returns 0.5"),
        (['"state": [state]', '"state": state.shape'], "state has something else than tensors"),
        (["return torch.zeros(batch, 64", "return torch.zeros(64"], "FAILED   "),
        (["Stage(HEAD, 100", "Stage('heads', 100"], "'heads' is none of projections, "),
        (["[Stage(HEAD, 100, 10, 1000)]", "[]"], "no stage for decode"),
        (["return [Stage", "raise KeyError('x')\n    return [Stage"], "counts bytes and operations: KeyError: 'x'"),
        (
            [
                "        state.mul_(0.9)",
                "        self.seen = getattr(self, 'seen', 0) + 1\n        state.mul_(self.seen)",
            ],
            "reset_state is the start of a sequence",
        ),
        (["work=work", "missing=lambda: 3"], "missing() is None or one line: it returns 3"),
        (["work=work", "missing=lambda: 'install x'"], "everything else: install x"),
        (["work=work", "needs_cuda=True"], "everything else: the model needs a GPU"),
        (["work=work", "check=lambda request: 1 / 0"], "check() accepts it: ZeroDivisionError"),
        (["super().__init__()", "raise RuntimeError('no weights')"], "the factory builds it: RuntimeError: no weights"),
    ],
)
def test_a_model_that_is_wrong(pairs: list[str], said: str, installed: Install) -> None:
    installed("ttt_mlflow.models", "toys", changed(*pairs), "mine = toys:entry")
    done = check("toy")
    assert done.exit_code == 1, done.output
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1, done.stdout
    assert said in failed[0]
    assert done.stdout.endswith("1 of the checks failed\n")
    assert "Traceback" not in done.output


def test_a_state_that_is_made_anew(installed: Install) -> None:
    """As a graph would not see it."""
    code = changed("return torch.zeros(batch, 64, **self.where)", "return [torch.zeros(batch, 64, **self.where)]")
    code = code.replace("state.zero_()", "state[0] = torch.zeros_like(state[0])")
    code = code.replace("state.mul_(0.9)", "state[0].mul_(0.9)").replace("return state @", "return state[0] @")
    installed("ttt_mlflow.models", "toys", code, "mine = toys:entry")
    done = check("toy")
    assert "FAILED   reset_state and step work in place: reset_state makes new tensors" in done.stdout


def test_a_package_that_cannot_be_imported(installed: Install) -> None:
    installed("ttt_mlflow.models", "toys", "import no_such_package", "mine = toys:entry")
    done = check("mine")
    assert done.exit_code == 1
    assert "FAILED   the package can be imported" in done.stdout
    assert "toys 1.0: its models (ttt_mlflow.models: mine = toys:entry) cannot be loaded" in done.stdout


def test_no_such_model(installed: Install) -> None:
    installed("ttt_mlflow.models", "toys", "import no_such_package", "mine = toys:entry")
    done = check("theirs")
    assert done.exit_code == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("Error: model_name=theirs: no such model; there are ttt-125m, ")
    assert second.startswith("Error: toys 1.0: its models ")


def test_our_own_models_are_what_we_ask_for() -> None:
    lines: list[str] = []
    trial = Trial(lines.append)
    try_model(find_model("ttt-tiny"), torch.device("cpu"), trial)
    assert trial.failures == 0, lines
    assert sum("prefill is what the steps do" in line for line in lines) == 2
    assert sum(line.startswith("skipped  mlp_") for line in lines) > 0, "Triton's"


CACHED = (
    ("def new_state(self, batch):\n        return torch.zeros(batch, 64, **self.where)",
     "def new_cache(self, batch, max_length):\n        return [torch.zeros(batch, max_length, 64, **self.where), "
     "torch.zeros(1, dtype=torch.int64)]"),
    ("state.zero_()", "state[1].zero_()"),
    ("        state.mul_(0.9).add_(self.table(tokens))\n        return state @ self.table.weight.T",
     "        cache, position = state\n        cache.index_copy_(1, position, self.table(tokens).unsqueeze(1))\n"
     "        position.add_(1)\n        there = torch.arange(cache.shape[1]) < position\n"
     "        return (cache * there[:, None]).sum(1) @ self.table.weight.T"),
    ('"state": [state]', '"state": state'),
)  # fmt: skip


def test_a_model_with_a_cache(installed: Install) -> None:
    """Its cache takes the longest sequence and nothing more."""
    pairs = [text for pair in CACHED for text in pair]
    chooses = "    def choose(self, state):\n        self.attn_impl = 'own'\n\n    def parameter_count"
    installed("ttt_mlflow.models", "toys", changed(*pairs, "    def parameter_count", chooses), "mine = toys:entry")
    done = check("toy")
    assert done.exit_code == 0, done.output
    assert "ok       new_cache(2, 9)" in done.stdout
    assert "ok       choose(state) leaves a name in attn_impl" in done.stdout


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["(batch, max_length, 64,", "(batch, max_length - 1, 64,"], "a prompt and 4 steps give tokens [B]"),
        (["def new_cache", "def new_one"], "Toy has no new_state"),
        (["state[1].zero_()", "pass"], "reset_state is the start of a sequence"),
        (
            ["    def parameter_count", "    def choose(self, state):\n        pass\n\n    def parameter_count"],
            "attn_impl is None",
        ),
    ],
)
def test_a_model_with_a_cache_that_is_wrong(pairs: list[str], said: str, installed: Install) -> None:
    texts = [text for pair in CACHED for text in pair]
    code = changed(*texts)
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in code
        code = code.replace(old, new)
    installed("ttt_mlflow.models", "toys", code, "mine = toys:entry")
    done = check("toy")
    assert done.exit_code == 1, done.output
    assert any(said in line for line in done.stdout.splitlines() if line.startswith("FAILED")), done.stdout

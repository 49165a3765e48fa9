"""What is missing for the models of flash-linear-attention, and a command that installs it into this environment."""

import importlib.machinery
import importlib.util
import shlex
import sys

import pytest

from tests.requirements import PROJECT
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.models import installation
from ttt_mlflow.models.fla import package
from ttt_mlflow.models.fla.sizes import GATED_DELTA, RWKV7
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prediction import missing_requirement

NAMES = [*GATED_DELTA, *RWKV7]


def install(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Of what fla needs, let only these be found."""
    real = importlib.util.find_spec

    def find_spec(name: str, package_: str | None = None) -> importlib.machinery.ModuleSpec | None:
        if name not in package.REQUIREMENTS:
            return real(name, package_)
        return importlib.machinery.ModuleSpec(name, None) if name in modules else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(installation, "has_pip", lambda: "pip" in modules)


@pytest.mark.parametrize(
    ("installed", "absent"),
    [
        ([], "flash-linear-attention and transformers and einops"),
        (["transformers", "einops"], "flash-linear-attention"),
        (["fla", "einops"], "transformers"),
    ],
)
def test_what_is_missing_and_how_to_get_it(installed: list[str], absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "pip", *installed)
    said = package.missing()
    assert said
    before, _, command = said.partition(": ")
    assert before == f"{absent} not installed"
    assert shlex.split(command) == [sys.executable, "-m", "pip", "install", "flash-linear-attention>=0.6,<0.7"]
    config = RunConfig.parse({"model_name": "rwkv7-1.3b"})
    assert missing_requirement(config) == said, "a sweep asks before it makes a plan"
    with pytest.raises(BadInput) as refused:
        make_plan(config)
    assert str(refused.value) == f"model_name=rwkv7-1.3b: {said}"


def test_an_environment_without_pip_gets_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert f": uv pip install --python {sys.executable} " in (package.missing() or "")


def test_nothing_is_missing_where_all_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *package.REQUIREMENTS)
    assert package.missing() is None


def test_the_versions_are_those_of_the_extra() -> None:
    extra = PROJECT["optional-dependencies"]["peers"]
    assert package.REQUIREMENTS["fla"] in extra
    assert [one.partition(">")[2] for one in extra] == ["=0.6,<0.7"] * 2, "both packages have one version"


@pytest.mark.parametrize("name", NAMES)
def test_entries_say_what_they_are(name: str) -> None:
    entry = find_model(name)
    assert entry.inner_nets == ()
    assert not entry.takes_checkpoint
    assert not entry.own_generation, "eager, compiled and graph decode are those of every model"
    assert entry.period == 1
    assert not entry.cost_grows
    assert "through flash-linear-attention" in entry.description

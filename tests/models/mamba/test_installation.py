"""What is missing for Mamba, and a command that installs it into this environment and no other."""

import importlib.machinery
import importlib.metadata
import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import PROJECT, ROOT
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.models import installation as environment
from ttt_mlflow.models.mamba import installation
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prediction import missing_requirement

KNOWN = (*installation.REQUIREMENTS, *installation.BUILD_TOOLS)
TOOLS = ("setuptools", "wheel", "packaging", "ninja", "pip")
MAMBA, CONV = installation.REQUIREMENTS.values()
CONFIG = RunConfig.parse({"model_name": "state-spaces/mamba-1.4b"})


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "find_nvcc", lambda: None)


def install(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Of the modules that matter, let only these be found."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> importlib.machinery.ModuleSpec | None:
        if name not in KNOWN:
            return real(name, package)
        return importlib.machinery.ModuleSpec(name, None) if name in modules else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(environment, "has_pip", lambda: "pip" in modules)


def command() -> str:
    said = installation.missing()
    assert said
    return said.rpartition(": ")[2]


@pytest.mark.parametrize(
    ("installed", "absent", "asked"),
    [
        ([], "mamba-ssm and causal-conv1d", [MAMBA, CONV]),
        (["mamba_ssm"], "causal-conv1d", [CONV]),
        (["causal_conv1d"], "mamba-ssm", [MAMBA]),
    ],
)
def test_what_is_missing_and_how_to_get_it(
    installed: list[str], absent: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *TOOLS, *installed)
    said = installation.missing()
    assert said
    assert said.startswith(f"{absent} not installed; building needs a CUDA toolchain, and no nvcc was found (on PATH")
    assert shlex.split(command()) == [sys.executable, "-m", "pip", "install", "--no-build-isolation", *asked]
    assert "\n" not in said
    assert missing_requirement(CONFIG) == said, "a sweep asks before it makes a plan"
    with pytest.raises(BadInput) as refused:
        make_plan(CONFIG)
    assert str(refused.value) == f"model_name=state-spaces/mamba-1.4b: {said}"


def test_a_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *TOOLS)
    monkeypatch.setattr(installation, "find_nvcc", lambda: "/opt/cuda/bin/nvcc")
    assert "not installed; /opt/cuda/bin/nvcc builds what is missing, in minutes: " in (installation.missing() or "")


def test_what_builds_it_is_installed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "setuptools", "packaging", "pip")
    tools, build = command().split(" && ")
    assert shlex.split(tools) == [sys.executable, "-m", "pip", "install", "wheel", "ninja"]
    assert "--no-build-isolation" in build


def test_an_environment_without_pip_gets_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLflow makes them with --env-manager=uv."""
    install(monkeypatch, *TOOLS[:-1])
    assert shlex.split(command())[:5] == ["uv", "pip", "install", "--python", sys.executable]


def test_nothing_is_missing_where_both_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "mamba_ssm", "causal_conv1d")
    assert installation.missing() is None


def test_the_versions_are_those_of_the_extra() -> None:
    assert list(installation.REQUIREMENTS.values()) == PROJECT["optional-dependencies"]["mamba"]


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH", "PATH"])
def test_the_compiler_is_found(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    nvcc = tmp_path / "bin/nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(nvcc.parent if variable == "PATH" else tmp_path))
    assert installation.find_nvcc() != str(nvcc), "it is not executable"
    nvcc.chmod(0o755)
    assert installation.find_nvcc() == str(nvcc)


def test_asking_leaves_setuptools_usable() -> None:
    """torch.compile imports it, and a process that was told what Mamba lacks measures other models."""
    asks = (
        "from ttt_mlflow.models import installation; from ttt_mlflow.models.mamba.installation import missing; "
        "missing(); print(installation.has_pip())"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{asks}; import setuptools"], capture_output=True, text=True, cwd=ROOT
    )
    has_pip = any(importlib.metadata.distributions(name="pip"))
    assert (done.returncode, done.stdout.strip()) == (0, str(has_pip)), done.stderr

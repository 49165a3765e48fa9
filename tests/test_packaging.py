"""pyproject.toml, conda.yaml and MLproject say the same, and the same as RunConfig and MicroConfig."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from ttt_mlflow.config import CONFIGURATIONS, as_text

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "conda.yaml").read_text())
MLPROJECT_TEXT = (ROOT / "MLproject").read_text()
ENTRY_POINTS = yaml.safe_load(MLPROJECT_TEXT)["entry_points"]
COMMANDS = {"main": "run", "micro": "micro"}
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"])


def test_conda_pins_are_the_pyproject_pins() -> None:
    pip_pins = next(entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
    assert pip_pins == PROJECT["dependencies"]


def test_every_dependency_is_pinned() -> None:
    extras = [pin for pins in PROJECT["optional-dependencies"].values() for pin in pins]
    for pin in PROJECT["dependencies"] + extras:
        if not pin.startswith(f"{PROJECT['name']}["):  # one extra takes in another
            assert re.fullmatch(r"[A-Za-z0-9-]+(\[[a-z]+\])?==[A-Za-z0-9.]+", pin), pin


def test_mlflow_reads_a_whole_python_version_from_conda_yaml() -> None:
    """uv and virtualenv take the version from conda.yaml; virtualenv asks pyenv for exactly that one."""
    from mlflow.utils.environment import _PythonEnv

    environment = _PythonEnv.from_conda_yaml(str(ROOT / "conda.yaml"))
    assert re.fullmatch(r"3\.11\.\d+", environment.python)
    assert environment.dependencies == PROJECT["dependencies"]


def test_mlproject_has_every_entry_point() -> None:
    assert set(ENTRY_POINTS) == set(CONFIGURATIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_mlproject_declares_or_names_every_parameter(name: str) -> None:
    taken = re.search(rf"\n#   {name}: (.+)\n", MLPROJECT_TEXT)
    assert taken is not None
    undeclared = taken[1].split(", ")
    declared, fields = ENTRY_POINTS[name]["parameters"], CONFIGURATIONS[name].model_fields
    assert {*declared, *undeclared} == set(fields)
    assert not set(declared) & set(undeclared)
    # what depends on the machine has no default that mlflow could write into the run
    assert {name for name, field in fields.items() if field.default is None} == set(undeclared)


@pytest.mark.parametrize(
    ("entry_point", "name"),
    [(entry_point, name) for entry_point, entry in ENTRY_POINTS.items() for name in entry["parameters"]],
)
def test_mlproject_default_is_the_default(entry_point: str, name: str) -> None:
    entry = ENTRY_POINTS[entry_point]
    default = CONFIGURATIONS[entry_point].model_fields[name].default
    assert str(entry["parameters"][name]["default"]) == as_text(default)
    assert f"--{name}={{{name}}}" in entry["command"]


@pytest.mark.parametrize("name", COMMANDS)
def test_mlproject_command_takes_the_shells_place(name: str) -> None:
    assert ENTRY_POINTS[name]["command"].startswith(f"exec python -m ttt_mlflow {COMMANDS[name]} ")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_and_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)

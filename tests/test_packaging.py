"""pyproject.toml, constraints.txt, conda.yaml and MLproject agree with each other, with RunConfig and MicroConfig."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.project import ROOT
from tests.requirements import CONSTRAINTS, dependencies, lower_bound, of_extras
from ttt_mlflow.config import CONFIGURATIONS, as_text

CONDA = yaml.safe_load((ROOT / "conda.yaml").read_text())
CONDA_PINS = next(entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
MLPROJECT_TEXT = (ROOT / "MLproject").read_text()
ENTRY_POINTS = yaml.safe_load(MLPROJECT_TEXT)["entry_points"]
COMMANDS = {"main": "run", "micro": "micro", "compare": "compare", "sweep": "sweep"}
REQUIRED = ("baseline", "candidate")  # of compare: mlflow asks for what has no default
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"])


def test_conda_yaml_has_the_pins_of_constraints_txt() -> None:
    needed = {canonicalize_name(requirement.name) for requirement in dependencies()}
    pins = [str(pin) for pin in CONSTRAINTS if canonicalize_name(pin.name) in needed]
    assert pins == CONDA_PINS


def test_every_constraint_is_one_version() -> None:
    for pin in CONSTRAINTS:
        assert re.fullmatch(r"[A-Za-z0-9-]+==[A-Za-z0-9.]+", str(pin)), pin  # pip refuses extras here


def test_every_dependency_is_pinned_once_and_nothing_else_is() -> None:
    pinned = [canonicalize_name(pin.name) for pin in CONSTRAINTS]
    needed = {canonicalize_name(requirement.name) for requirement in dependencies() + of_extras()}
    assert sorted(pinned) == sorted(needed)


def test_every_pin_lies_inside_the_range() -> None:
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in CONSTRAINTS}
    outside = [
        f"{requirement}, but constraints.txt has {pinned[canonicalize_name(requirement.name)]}"
        for requirement in dependencies() + of_extras()
        if pinned[canonicalize_name(requirement.name)] not in requirement.specifier
    ]
    assert not outside


def test_every_dependency_is_a_range_with_a_lower_bound() -> None:
    """An exact pin here would replace what the environment has; without a lower bound there is nothing to try."""
    for requirement in dependencies():
        assert {bound.operator for bound in requirement.specifier} <= {">=", "<", "!="}, requirement
        assert lower_bound(requirement) in requirement.specifier


def test_mlflow_reads_a_whole_python_version_from_conda_yaml() -> None:
    """uv and virtualenv take the version from conda.yaml; virtualenv asks pyenv for exactly that one."""
    from mlflow.utils.environment import _PythonEnv

    environment = _PythonEnv.from_conda_yaml(str(ROOT / "conda.yaml"))
    assert re.fullmatch(r"3\.11\.\d+", environment.python)
    assert environment.dependencies == CONDA_PINS


def test_mlproject_has_every_entry_point() -> None:
    assert set(ENTRY_POINTS) == set(CONFIGURATIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_mlproject_declares_or_names_every_parameter(name: str) -> None:
    taken = re.search(rf"\n#   {name}: (.+(?:\n#     .+)*)", MLPROJECT_TEXT)
    assert taken is not None
    undeclared = re.split(r",\s+", taken[1].replace("\n#", "\n"))
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
    if name not in REQUIRED:
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

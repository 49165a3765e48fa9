"""scripts/lib/programs.sh: root gets the programs that tests need, anyone else is told; all of them stand-ins."""

import subprocess
from pathlib import Path

import pytest

from tests.project import ROOT

ALL = {"g++": "", "chromium": "", "initdb": "", "nginx": ""}
ROOTS = {"id": "echo 0", "apt-get": 'echo "$@" >>"$LOG"'}
SKIPPED = "are skipped (on Debian and Ubuntu: apt-get install"


def prepare(folder: Path, programs: dict[str, str], **settings: str) -> tuple[str, list[str]]:
    """What it says, and what apt-get is asked for, where there is nothing but ``programs`` (their shell code)."""
    for name, code in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{code}\n")
        (folder / name).chmod(0o755)
    env = {"PATH": str(folder), "LOG": str(folder / "log"), **settings}
    script = f"set -euo pipefail; source {ROOT}/scripts/lib/programs.sh; prepare_programs"
    done = subprocess.run(["/bin/bash", "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    log = folder / "log"
    return done.stderr, log.read_text().splitlines() if log.exists() else []


def without(*names: str) -> dict[str, str]:
    return {name: code for name, code in ALL.items() if name not in names}


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_where_nothing_is_missing_nothing_is_done(compiler: str, tmp_path: Path) -> None:
    assert prepare(tmp_path, {**without("g++"), **ROOTS, compiler: ""}) == ("", [])


def test_root_gets_what_is_missing(tmp_path: Path) -> None:
    said, asked = prepare(tmp_path, {**without("g++", "chromium"), **ROOTS})
    assert said == "Installing g++ chromium (once)\n"
    assert asked == ["update -qq", "install -y -qq --no-install-recommends g++ chromium"]


def test_a_compiler_that_is_named_is_one(tmp_path: Path) -> None:
    assert prepare(tmp_path, {**without("g++"), **ROOTS}, CXX="/opt/c++") == ("", [])


@pytest.mark.parametrize(
    ("machine", "settings"),
    [
        ({"id": "echo 1000", "apt-get": "exit 3"}, {}),
        ({"id": "echo 0"}, {}),
        ({"id": "echo 0", "apt-get": "exit 100"}, {}),
        (ROOTS, {"TTT_MLFLOW_ENV": "current"}),
    ],
    ids=["no root", "no apt-get", "apt-get fails", "an environment to be left as it is"],
)
def test_otherwise_it_says_what_is_skipped(machine: dict[str, str], settings: dict[str, str], tmp_path: Path) -> None:
    said, asked = prepare(tmp_path, {**without("chromium"), **machine}, **settings)
    assert said.endswith(f"Tests that need chromium {SKIPPED} chromium)\n")
    assert asked == []

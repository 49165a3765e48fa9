"""A user without an account and without HOME, as in some containers: what a home folder is used for does without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import QUICK, ROOT, environment
from ttt_mlflow.tracking.new_store import sqlite_uri

# Python imports it first of all: the user of this process has no entry in the passwd file
NO_ACCOUNT = """
import pwd

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
"""
NAMES = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def homeless(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose user has no home folder and no name."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(NO_ACCOUNT)
    kept = {name: value for name, value in environment().items() if name not in NAMES}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])}


def run(words: list[str], env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True)


@pytest.mark.long
def test_a_run_is_measured_published_and_listed(homeless: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    program = [sys.executable, "-m", "ttt_mlflow"]
    store = f"--tracking-uri={sqlite_uri(folder / 'mlflow.db')}"
    done = run([*program, "run", *(f"--{key}={value}" for key, value in QUICK.items()), store], homeless, folder)
    assert done.returncode == 0, done.stderr
    done = run([*program, "sync", store], homeless, folder)  # it imports MLflow in its own process
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert "Warning" not in done.stderr
    assert "already published" in done.stdout
    assert not (folder / "~").exists()


def test_the_scripts_give_mlflow_a_home_and_a_name(homeless: dict[str, str], tmp_path: Path) -> None:
    """A shell knows where the home of a user without an account is: nowhere but in the root folder."""
    said = "import getpass, mlflow, pathlib; print(pathlib.Path.home(), getpass.getuser())"
    program = tmp_path / "bin/id"  # as it is for such a user
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" != -un ] || { echo "id: cannot find name" >&2; exit 1; }\necho 4242\n')
    program.chmod(0o755)
    source = f"source {ROOT}/scripts/lib/environment.sh; exec {sys.executable} -c '{said}'"
    env = {**homeless, "PATH": f"{program.parent}{os.pathsep}{homeless['PATH']}"}
    done = run(["bash", "-euc", source], env, tmp_path)
    assert done.returncode == 0, done.stderr
    home, name = done.stdout.split()
    assert os.path.isabs(home)
    assert name == str(os.getuid())
    named = run(["bash", "-euc", source], {**env, "HOME": "/home/anna", "USER": "anna"}, tmp_path)
    assert named.stdout.split() == ["/home/anna", "anna"]

"""Relative paths are those of the folder in which the user started `mlflow run`, wherever the project is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.models.ttt.cases import make_model
from tests.models.ttt.checkpoints import save_checkpoint
from tests.project import QUICK, ROOT, copy_project, environment, free_port, mlflow_run, run
from ttt_mlflow.app import users_folder
from ttt_mlflow.app.users_folder import enter_users_folder

NOTE = "Note: the project runs from {project}; relative paths are those of {folder}, also for the records"
REMOTE = "https://git.example/team/ttt.git"


def as_started(command: list[str], folder: Path, run_id: str | None) -> list[str]:
    """What ``python -m ttt_mlflow`` in the project's folder says, started by this process, which is in another one."""
    env = environment(f"http://127.0.0.1:{free_port()}") | ({"MLFLOW_RUN_ID": run_id} if run_id else {})
    code = f"import os, subprocess, sys; os.chdir({str(folder)!r}); subprocess.run({command!r}, cwd={str(ROOT)!r})"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


def test_the_folder_of_whoever_started_it(tmp_path: Path) -> None:
    """A command line that is refused at once is enough."""
    own = [sys.executable, "-m", "ttt_mlflow", "micro"]
    note = NOTE.format(project=ROOT, folder=tmp_path)
    assert as_started([*own, "--list=x"], tmp_path, "0" * 32)[0] == note
    for command, folder, run_id in (
        ([*own, "--list=x"], ROOT, "0" * 32),
        ([*own, "--list=x"], tmp_path, None),  # no `mlflow run` started it
        ([*own, "--list"], tmp_path, "0" * 32),  # nor this, which it never writes
    ):
        assert not any(line.startswith("Note: the project") for line in as_started(command, folder, run_id))


@pytest.fixture
def as_by_mlflow_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr(sys, "argv", [str(ROOT / "ttt_mlflow/__main__.py"), "run", "--batch=2"])
    monkeypatch.chdir(ROOT)


def test_processes_that_are_started_later_import_the_project(
    as_by_mlflow_run: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("psutil.Process.cwd", lambda process: str(tmp_path))
    enter_users_folder()
    assert Path.cwd() == tmp_path
    assert os.environ["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/elsewhere"])


@pytest.mark.parametrize("lacking", ["it is gone", "it may not be entered"])
def test_a_folder_that_cannot_be_used_is_told(
    lacking: str,
    as_by_mlflow_run: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / ("gone" if lacking == "it is gone" else "file")
    monkeypatch.setattr("psutil.Process.cwd", lambda process: str(place))
    enter_users_folder()
    assert Path.cwd() == ROOT
    said = capsys.readouterr().err
    assert said.startswith("Warning: the folder in which `mlflow run` was started cannot be used (")
    assert said.endswith(f"); relative paths, the records and the default store are in {ROOT}\n")


@pytest.mark.parametrize("program", ["/usr/bin/ttt-mlflow", str(ROOT / "tests/test_cli.py")])
def test_another_program_in_the_projects_folder_stays_there(
    program: str, as_by_mlflow_run: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "run", "--batch=2"])
    monkeypatch.setattr("psutil.Process.cwd", lambda process: str(tmp_path))
    enter_users_folder()
    assert Path.cwd() == ROOT


def test_a_package_that_is_installed_has_no_project(
    as_by_mlflow_run: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(users_folder, "PROJECT", tmp_path)
    enter_users_folder()
    assert Path.cwd() == ROOT


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=anna", "-c", "user.email=anna@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which git finds the project at REMOTE, which is a bare repository on this disk."""
    folder = tmp_path_factory.mktemp("remote")
    project = folder / "project"
    project.mkdir()
    copy_project(project)
    git(project, "init", "--initial-branch=main")
    git(project, "add", ".")
    git(project, "commit", "--message=project")
    git(folder, "clone", "--bare", str(project), "ttt.git")
    place = {"GIT_CONFIG_KEY_0": f"url.file://{folder}/.insteadOf", "GIT_CONFIG_VALUE_0": "https://git.example/team/"}
    return {"GIT_CONFIG_COUNT": "1", **place}


@pytest.mark.long
def test_a_project_from_git_leaves_everything_with_the_user(remote: dict[str, str], tmp_path: Path) -> None:
    """The default store, the default folder of records, and a checkpoint by a relative path."""
    user = tmp_path / "Änne (own)"  # with an apostrophe, MLflow itself makes no store
    temporary = tmp_path / "tmp"
    user.mkdir()
    temporary.mkdir()
    env = environment() | remote | {"TMPDIR": str(temporary)}
    env.pop("PYTHONPATH", None)
    save_checkpoint(make_model("mlp_1_dual"), user / "model.safetensors")
    command = mlflow_run({**QUICK, "checkpoint": "model.safetensors"}, ROOT)
    command[2] = REMOTE
    done = run(command, env, user)
    assert done.returncode == 0, done.stdout + done.stderr

    assert sorted(path.name for path in user.iterdir()) == ["mlflow.db", "mlruns", "model.safetensors", "ttt_runs"]
    (record,) = (user / "ttt_runs").iterdir()
    assert json.loads((record / "status.json").read_text())["status"] == "ok"
    (copy,) = {line for line in done.stderr.splitlines() if line.startswith("Note: the project runs from ")}
    assert copy.endswith(f"; relative paths are those of {user}, also for the records")
    assert copy.startswith(f"Note: the project runs from {temporary}/")
    assert not [*temporary.rglob("ttt_runs"), *temporary.rglob("mlflow.db")]
    assert f"ttt_runs/{record.name}" in done.stdout

    client = MlflowClient(f"sqlite:///{user}/mlflow.db")
    found = client.search_runs(["0"], "tags.`ttt.status` = 'ok'")
    assert [one.data.tags["ttt.journal_id"] for one in found] == [record.name]
    assert found[0].data.tags["mlflow.source.name"] == REMOTE
    assert found[0].info.artifact_uri.startswith(str(user / "mlruns"))

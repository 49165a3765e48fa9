"""scripts/lib/environment.sh: installs once, again when versions change, and says what stands in the way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT, environment, free_port

# Stands for .venv/bin/python: notes what pip is asked for, and installs nothing.
STAND_IN = f"""#!/usr/bin/env bash
if [[ $1 == -m && $2 == pip ]]; then
    [[ $3 == --version ]] || echo "${{@:3}}" >>"$PIP_LOG"
    [[ $3 != install ]] || exit "${{PIP_EXIT:-0}}"
    exit 0
fi
exec {sys.executable} "$@"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN)
    python.chmod(0o755)
    return tmp_path


def prepare(project: Path, extra: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    script = (
        f'set -euo pipefail; source "$1/scripts/lib/environment.sh"; prepare_environment {extra}; command -v python'
    )
    env = {name: value for name, value in os.environ.items() if name != "TTT_MLFLOW_ENV"}
    env |= {"PIP_LOG": str(project / "pip.log"), **settings}
    return subprocess.run(["bash", "-c", script, "bash", project], env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("~/runs of mine", "/home/anna/runs of mine"),
        ("~", "/home/anna"),
        ("~ben/x", "~ben/x"),
        ("a/~/b", "a/~/b"),
        ("", ""),
    ],
)
def test_a_tilde_behind_an_equals_sign(given: str, meant: str) -> None:
    script = f'source {ROOT}/scripts/lib/environment.sh; at_home "$1"'
    command = ["bash", "-c", script, "bash", given]
    done = subprocess.run(command, env=os.environ | {"HOME": "/home/anna"}, capture_output=True, text=True)
    assert done.stdout == f"{meant}\n"


def installations(project: Path) -> list[str]:
    log = project / "pip.log"
    return log.read_text().splitlines() if log.exists() else []


def test_second_call_installs_nothing(project: Path) -> None:
    for _ in range(2):
        assert prepare(project).stdout.strip() == str(project / ".venv/bin/python")
    (installation,) = installations(project)
    assert installation == (
        f"install --disable-pip-version-check --no-compile --constraint {project}/constraints.txt --editable {project}"
    )


def test_what_was_installed_is_compiled(project: Path) -> None:
    """By all cores; also where Python is told not to write what it compiles, since it would never be kept there."""
    packages = project / ".venv/lib/packages"
    packages.mkdir(parents=True)
    (packages / "good.py").write_text("VALUE = 1\n")
    (packages / "for_another_python.py").write_text("print 1\n")
    assert prepare(project, PYTHONDONTWRITEBYTECODE="1").returncode == 0
    assert [path.name.partition(".")[0] for path in packages.glob("__pycache__/*.pyc")] == ["good"]


def test_tests_need_more_than_a_run_does(project: Path) -> None:
    prepare(project)
    prepare(project, "dev")
    assert len(installations(project)) == 2
    assert installations(project)[1].endswith(f"--editable {project}[dev]")
    prepare(project)
    prepare(project, "dev")
    assert len(installations(project)) == 2


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_changed_versions_are_installed(file: str, project: Path) -> None:
    prepare(project, "dev")
    with (project / file).open("a") as text:
        text.write("# another version\n")
    prepare(project)
    assert len(installations(project)) == 2


def test_failed_installation_is_an_error_and_is_tried_again(project: Path) -> None:
    failed = prepare(project, PIP_EXIT="1")
    assert failed.returncode == 1
    assert "Error: the installation failed; see the whole log in" in failed.stderr
    assert prepare(project).returncode == 0
    assert len(installations(project)) == 2


def test_no_python_is_a_clear_error(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".venv")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname"):
        found = shutil.which(tool)
        assert found
        (tools / tool).symlink_to(found)
    result = prepare(project, PATH=str(tools))
    assert result.returncode == 1
    assert result.stderr.startswith("Error: no Python 3.11 or 3.12 with the venv module was found on PATH")


def test_current_environment_is_taken_as_it_is(project: Path) -> None:
    result = prepare(project, TTT_MLFLOW_ENV="current", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert result.stdout.strip() == str(Path(sys.executable).with_name("python"))
    assert installations(project) == []


@pytest.mark.parametrize(
    ("argument", "wanted"), [("model_name=rwkv7-1.3b", 1), ("model_name=ttt-1b,gated-deltanet-1.3b", 1), ("ttt-1b", 0)]
)
def test_the_peers_are_installed_when_one_is_asked_for(argument: str, wanted: int, project: Path) -> None:
    prepare(project)
    (project / "pip.log").unlink()
    script = 'set -euo pipefail; source "$1/scripts/lib/environment.sh"; prepare_environment; prepare_peers "${@:2}"'
    env = {name: value for name, value in os.environ.items() if name != "TTT_MLFLOW_ENV"}
    for _ in range(2):  # once
        command = ["bash", "-c", script, "bash", str(project), "-P", argument]
        done = subprocess.run(command, env=env | {"PIP_LOG": str(project / "pip.log")}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(installations(project)) == wanted
    assert all(line.endswith(f"--editable {project}[peers]") for line in installations(project))


def prepare_mamba(project: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """In an environment without mamba-ssm, on a host with a CUDA compiler."""
    nvcc = project / "cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    script = 'set -euo pipefail; source "$1/scripts/lib/environment.sh"; prepare_environment; prepare_mamba "${@:2}"'
    env = {name: value for name, value in os.environ.items() if name != "TTT_MLFLOW_ENV"}
    env |= {"PIP_LOG": str(project / "pip.log"), "CUDA_HOME": str(project / "cuda"), **settings}
    prepare(project)
    (project / "pip.log").unlink()
    command = ["bash", "-c", script, "bash", str(project), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_mamba_is_built_where_a_compiler_is_and_a_mamba_model_is_asked_for(project: Path) -> None:
    done = prepare_mamba(project, "-P", "model_name=state-spaces/mamba-1.4b")
    assert done.returncode == 0, done.stderr
    tools, build = installations(project)
    pinned = f"install --disable-pip-version-check --constraint {project}/constraints.txt"
    assert tools == f"{pinned} setuptools wheel packaging ninja"
    assert build == f"{pinned} --no-build-isolation --editable {project}[mamba]"
    assert f"Building mamba-ssm and causal-conv1d with {project}/cuda/bin/nvcc (once, minutes; the log" in done.stderr


def test_a_build_of_mamba_that_fails_leaves_the_rest_to_the_command(project: Path) -> None:
    done = prepare_mamba(project, "mamba-130m", PIP_EXIT="1")
    assert done.returncode == 0
    assert "Warning: mamba-ssm could not be built; see the whole log in" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["-P", "model_name=ttt-1b"], {}),
        (["mamba-130m"], {"CUDA_HOME": "/nowhere", "PATH": "/usr/bin:/bin"}),
    ],
    ids=["another model", "no compiler"],
)
def test_mamba_is_not_built_otherwise(arguments: list[str], settings: dict[str, str], project: Path) -> None:
    done = prepare_mamba(project, *arguments, **settings)
    assert done.returncode == 0, done.stderr
    assert installations(project) == []
    assert "Building" not in done.stderr


def chosen(*arguments: str, **settings: str) -> list[str]:
    """The command that measures one configuration. Of a store in a folder nothing is asked."""
    script = 'set -euo pipefail; source "$1/scripts/lib/environment.sh"; choose_command "${@:2}"; echo "${command[*]}"'
    command = ["bash", "-c", script, "bash", str(ROOT), *arguments]
    done = subprocess.run(command, env=environment("file:runs") | settings, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "given", [[], ["--experiment-name", "mine"], ["--experiment-name=mine"], ["--experiment-id", "3"]], ids=" ".join
)
def test_a_run_goes_to_the_projects_experiment_unless_told_otherwise(given: list[str]) -> None:
    start = ["mlflow", "run", ".", "--env-manager=local"]
    default = [] if given else ["--experiment-name", "ttt-mlflow"]
    assert chosen("-P", "batch=2", *given) == [*start, *default, "-P", "batch=2", *given]


@pytest.mark.parametrize("variable", ["MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"])
def test_mlflows_variables_name_the_experiment(variable: str) -> None:
    assert "--experiment-name" not in chosen(**{variable: "3"})


@pytest.mark.long
def test_without_its_server_the_experiment_is_passed_on() -> None:
    away = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    own = ["python", "-m", "ttt_mlflow", "run"]
    assert chosen("-P", "batch=2", **away) == [*own, "--batch=2"], "it uses ttt-mlflow by itself"
    assert chosen("--experiment-name", "mine", **away) == [*own, "--experiment-name=mine"]


def prepared(folder: Path, *arguments: str, **settings: str) -> tuple[list[str], str]:
    """The arguments with absolute paths, and the tracking URI, of a script that was started in ``folder``."""
    script = (
        'set -euo pipefail; source "$1/scripts/lib/environment.sh"; absolute_paths "${@:2}"; cd /\n'
        'printf \'%s\\0\' "${arguments[@]}" "${MLFLOW_TRACKING_URI:-}"'
    )
    command = ["bash", "-c", script, "bash", str(ROOT), *arguments]
    done = subprocess.run(command, env=environment() | settings, cwd=folder, capture_output=True, text=True, check=True)
    *found, uri, _ = done.stdout.split("\0")
    return found, uri


def test_relative_paths_are_those_of_whoever_started_the_script(tmp_path: Path) -> None:
    folder = tmp_path / 'a "folder"\nof Änne'
    folder.mkdir()
    given = ["-P", "logdir=runs", "-Pcheckpoint=a b/c", "--param-list=logdir=./x", "-P", "batch=2"]
    assert prepared(folder, *given)[0] == [
        *("-P", f"logdir={folder}/runs", f"-Pcheckpoint={folder}/a b/c", f"--param-list=logdir={folder}/./x"),
        *("-P", "batch=2"),
    ]
    kept = ["-P", "logdir=/runs", "-P", "checkpoint=~/x", "-P", "checkpoint=auto", "-P", "logdir="]
    assert prepared(folder, *kept)[0] == kept


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite:///a b.db", "sqlite:///{}/a b.db"),
        ("sqlite:////a.db", "sqlite:////a.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        (" http://team:5000\n", "http://team:5000"),
        ("\tHTTPS://team/x ", "HTTPS://team/x"),
        ("postgresql://me@team/x", "postgresql://me@team/x"),
        ("", ""),
    ],
)
def test_the_tracking_uri_of_a_script(given: str, meant: str, tmp_path: Path) -> None:
    assert prepared(tmp_path, MLFLOW_TRACKING_URI=given)[1] == meant.format(tmp_path)

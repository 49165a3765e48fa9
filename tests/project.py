"""Starts the project as a person would: as processes, against stores of their own."""

import atexit
import os
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, closing, contextmanager
from functools import cache
from pathlib import Path

from mlflow import MlflowClient

from ttt_mlflow.tracking.takeover import params_of

ROOT = Path(__file__).parents[1]
PATIENCE_S = 180
# a configuration that is measured in a moment
QUICK = {
    "model_name": "ttt-tiny",
    "batch": "2",
    "genlen": "3",
    "warmup": "1",
    "repeats": "2",
    "device": "cpu",
}
# one that goes on until it is ended
ENDLESS = {**QUICK, "repeats": "1000000", "max_seconds": "3600"}


def environment(tracking_uri: str | None = None) -> dict[str, str]:
    """This test environment's Python and mlflow for a child process, and nothing of a run that may be going on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TTT_MLFLOW_ENV": "current",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        **({"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {}),
    }


def copy_project(folder: Path) -> Path:
    """A copy of what ``mlflow run`` and a wheel need, so that the default store, records and builds lie in it."""
    for name in ("MLproject", "conda.yaml", "pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("ttt_mlflow", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def mlflow_run(parameters: dict[str, str], project: Path = ROOT) -> list[str]:
    given = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
    return ["mlflow", "run", str(project), "--env-manager=local", *given]


def ttt_mlflow_run(parameters: dict[str, str]) -> list[str]:
    return [sys.executable, "-m", "ttt_mlflow", "run", *(f"--{name}={value}" for name, value in parameters.items())]


def made_by_mlflow_run(client: MlflowClient, entry_point: str, words: list[str], experiment_id: str = "0") -> str:
    """The id of a run as `mlflow run` makes it for the command line ``words`` of ``entry_point``."""
    tags = {"mlflow.source.type": "PROJECT", "mlflow.source.name": str(ROOT), "mlflow.project.entryPoint": entry_point}
    run_id = str(client.create_run(experiment_id, tags=tags).info.run_id)
    for name, value in (params_of(words) or {}).items():
        client.log_param(run_id, name, shlex.quote(value))
    return run_id


def run(command: list[str], env: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S)


class Started:
    """A process in a group of its own, as a terminal's foreground job is, with its output collected."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path = ROOT) -> None:
        self.process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a shell starts its background jobs with this signal ignored, and its children would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait(self) -> int:
        """The exit code; all who hold the output, grandchildren too, have ended then."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert not self._reader.is_alive(), "a process went on running"
        return code

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when ``condition()`` holds; fail if the process ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"ended early:\n{self.output}"
            assert time.monotonic() < deadline, f"waited in vain:\n{self.output}"
            time.sleep(0.05)

    def press_ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)


@contextmanager
def started(command: list[str], env: dict[str, str], cwd: Path = ROOT) -> Iterator[Started]:
    process = Started(command, env, cwd)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            os.killpg(process.process.pid, signal.SIGKILL)
        process.process.wait()


def measuring(logdir: Path) -> bool:
    """Whether a run under ``logdir`` has timed a pass: the second is announced."""
    return any("timed pass 2" in log.read_text() for log in logdir.glob("*/artifacts/log.txt"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def new_store(folder: Path) -> str:
    """The URI of a new SQLite store in ``folder``; artifacts are put beside it, as MLflow does where it makes one."""
    database = folder / "mlflow.db"
    shutil.copyfile(_empty_store(), database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))
    return f"sqlite:///{database}"


@cache
def _empty_store() -> Path:
    """A store that MLflow made, to be copied: making its schema takes seconds."""
    folder = Path(tempfile.mkdtemp(prefix="ttt-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with chdir(folder):
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Journals to publish, and places to publish them to."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ttt_mlflow.config import RunConfig
from ttt_mlflow.tracking.journal import Journal

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported

ROOT = Path(__file__).parents[2]
CONFIG = RunConfig.parse({"model_name": "ttt-125m", "inner_net": "mlp_1_dual", "batch": 2, "genlen": 8})
SERIES = {"system/gpu_0_power_usage_watts": [(1_700_000_000_000 + 1000 * i, i, 600.0 + i / 7) for i in range(60)]}

MakeJournal = Callable[..., Journal]


def start_python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that can import the package, also from another folder; its output is piped."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(autouse=True)
def _own_folder_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes to the current folder and reads the environment: each test has its own."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY":
            monkeypatch.delenv(name)


@pytest.fixture
def make_journal(tmp_path: Path) -> MakeJournal:
    """A journal as a run leaves it behind."""

    def make(status: str = "ok", message: str | None = None, root: Path = tmp_path / "runs") -> Journal:
        journal = Journal.create(root, CONFIG.model_dump(mode="json"))
        journal.set_used({**CONFIG.model_dump(mode="json"), "dtype": "float32"})
        journal.update_params(CONFIG.as_params())
        journal.update_metrics({"decode_tokens_per_s": 1234.5, "decode_step_ms_p50": 1 / 3})
        journal.update_tags({"ttt.host": "somewhere", "ttt.config_id": CONFIG.config_id})
        journal.set_series(SERIES)
        journal.set_description("# a run")
        journal.write_artifact("timing/steps.csv", "repeat,step,ms\n0,0,1.5\n")
        journal.write_artifact("environment/packages.txt", "torch==2\n")
        if status != "running":
            journal.set_status(status, message, exit_code=0)
        return journal

    return make


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for the session: making its tables takes seconds. Tests use an experiment each."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="session")
def server_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server on the loopback that takes the artifacts through."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", f"{folder}/artifacts", "--serve-artifacts"]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(port, server, folder / "log.txt")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            # not the port alone, which is open before the server can answer
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the tracking server did not start:\n{log.read_text()}")

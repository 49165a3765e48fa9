"""Places to publish records to."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import new_store
from tests.record.conftest import _own_folder_and_environment, make_journal

__all__ = ["_own_folder_and_environment", "make_journal"]

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for the session. Tests use an experiment each."""
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tracking server has its database, ``server.db``, and its artifacts."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server_uri(server_folder: Path) -> Iterator[str]:
    """A tracking server on the loopback that takes the artifacts through."""
    folder = server_folder
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", f"{folder}/artifacts", "--serve-artifacts"]
    # as scripts/server.sh: jobs would be eight more processes, each as long to start as the server
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(port, server, folder / "log.txt")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """An experiment of the test's own."""
    return str(request.node.name)


@pytest.fixture
def silent_address() -> Iterator[str]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and server.poll() is None:
        try:
            # not the port alone, which is open before the server can answer
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the tracking server did not start:\n{log.read_text()}")

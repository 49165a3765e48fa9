"""A team's tracking server and its PostgreSQL, both of which can be killed and started again on their ports."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psycopg

from tests.project import environment, free_port
from tests.reliability import clients
from tests.test_postgresql import postgresql_programs

START_S = 120


class PostgreSQL:
    """A PostgreSQL server of its own in ``folder``, with one empty database."""

    def __init__(self, folder: Path) -> None:
        programs = postgresql_programs()
        assert programs is not None
        self.folder, self.port, self._programs = folder, free_port(), programs
        # initdb refuses to run as root; Debian's package makes the user
        self._as_user: list[str] = []
        if os.getuid() == 0:
            self._as_user = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        self._program("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "mlflow", "--no-sync")
        self.start()
        with psycopg.connect(self._uri("postgres"), autocommit=True) as connection:
            connection.execute("create database runs")

    @property
    def uri(self) -> str:
        return self._uri("runs")

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -h 127.0.0.1"
        log = str(self.folder / "log")  # not our pipe: the server would hold it open
        self._program("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """``immediate`` is as a crash: what was not committed is gone."""
        self._program("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def _uri(self, database: str) -> str:
        return f"postgresql://mlflow@127.0.0.1:{self.port}/{database}"

    def _program(self, name: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / name), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)


class TrackingServer:
    """``mlflow server`` as a process group of its own, that takes the artifacts through.

    It is started with its own command. After a kill it is forked from a process that has imported MLflow, with the same
    arguments: it answers after one second instead of ten, and many kills become affordable. more, env: further
    arguments and variables, such as those for accounts.
    """

    def __init__(
        self, folder: Path, database: str, more: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.port, self.artifacts = free_port(), folder / "artifacts"
        self._folder, self._log = folder, folder / "server.log"
        self._arguments = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self._arguments += ["--backend-store-uri", database, "--serve-artifacts"]
        self._arguments += ["--artifacts-destination", str(self.artifacts), *more]
        self._env = {**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(env or {})}
        self._pid: int | None = None
        self._ended: Callable[[], object] = lambda: None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when the server answers."""
        with self._log.open("a") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *self._arguments],
                cwd=self._folder,
                env=self._env,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._pid, self._ended = process.pid, process.poll
        self._wait()

    def start_again(self) -> None:
        """Return when the server answers."""
        process = clients.fork(_serve, self._arguments, self._folder, self._env, self._log)
        self._pid, self._ended = process.pid, lambda: process.exitcode
        self._wait()

    def kill(self) -> None:
        """SIGKILL to the server and all its workers, whatever they do at this moment."""
        if self._pid is not None:
            os.killpg(self._pid, signal.SIGKILL)
            while self._ended() is None:
                time.sleep(0.01)
            self._pid = None

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            assert self._ended() is None, f"the server ended:\n{self._log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"the server does not answer:\n{self._log.read_text()[-3000:]}"
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=10).close()
                return
            except OSError:
                time.sleep(0.1)


def _serve(arguments: list[str]) -> None:
    """What ``mlflow ARGUMENTS`` does, but the command that it would start next is carried out in this process."""
    import mlflow.server
    import uvicorn.main
    from mlflow.cli import cli

    def carried_out(command: list[str], extra_env: dict[str, str], **_: object) -> None:
        os.environ.update(extra_env)
        uvicorn.main.main(command[command.index("uvicorn") + 1 :])

    setattr(mlflow.server, "_exec_cmd", carried_out)  # noqa: B010 (mypy holds the signature)
    cli(arguments)

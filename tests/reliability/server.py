"""A team's tracking server and its PostgreSQL, both of which can be killed and started again on their ports."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psycopg

from tests.project import environment, free_port
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
    """``mlflow server`` as a process group of its own, that takes the artifacts through."""

    def __init__(self, folder: Path, database: str) -> None:
        self.port, self.artifacts = free_port(), folder / "artifacts"
        self._folder, self._database = folder, database
        self._process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when the server answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self._database, "--workers", "1"]
        command += ["--artifacts-destination", str(self.artifacts), "--serve-artifacts"]
        env = {**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self._folder / "server.log"
        with log.open("a") as output:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=env, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while True:
            assert self._process.poll() is None, f"the server ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"the server does not answer:\n{log.read_text()[-3000:]}"
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=10).close()
                return
            except OSError:
                time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to the server and all its workers, whatever they do at this moment."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.kills += 1

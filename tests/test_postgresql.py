"""A run on a team's server whose runs lie in a real PostgreSQL."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from mlflow import MlflowClient

from tests.project import QUICK, ROOT, environment, free_port, run, started, ttt_mlflow_run


def postgresql_programs() -> Path | None:
    """The folder of initdb and pg_ctl: Debian keeps them off PATH."""
    on_path = shutil.which("initdb")
    found = [Path(on_path)] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


PROGRAMS = postgresql_programs()
pytestmark = pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL is not installed (apt install postgresql)")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not one of pytest's: another session of pytest takes those from all other users, the server's included."""
    with TemporaryDirectory(prefix="ttt-postgresql-") as name:
        yield Path(name)


@pytest.fixture
def database(folder: Path) -> Iterator[str]:
    """The URI of an empty database on a PostgreSQL server of its own."""
    assert PROGRAMS is not None
    port = free_port()
    # initdb refuses to run as root; Debian's package makes the user
    as_user: list[str] = []
    if os.getuid() == 0:
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    data = str(folder / "data")

    def program(name: str, *arguments: str) -> None:
        subprocess.run([*as_user, str(PROGRAMS / name), *arguments], check=True, capture_output=True, cwd=folder)

    program("initdb", "-D", data, "-A", "trust", "-U", "mlflow")
    log = str(folder / "log")  # not our pipe: the server would hold it open
    program("pg_ctl", "-D", data, "-w", "-l", log, "-o", f"-p {port} -k {folder} -h 127.0.0.1", "start")
    try:
        with psycopg.connect(f"postgresql://mlflow@127.0.0.1:{port}/postgres", autocommit=True) as connection:
            connection.execute("create database runs")
        yield f"postgresql://mlflow@127.0.0.1:{port}/runs"
    finally:
        program("pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.mark.long
def test_a_run_arrives_in_postgresql(database: str, tmp_path: Path) -> None:
    port = free_port()
    script = [str(ROOT / "scripts/server.sh"), "--port", str(port), "--workers", "1"]
    script += ["--database", database, "--artifacts", str(tmp_path / "artifacts")]
    with started(script, environment(), tmp_path) as server:
        server.wait_for(lambda: "export MLFLOW_TRACKING_URI=" in server.output)
        uri = f"http://127.0.0.1:{port}"
        done = run(ttt_mlflow_run({**QUICK, "logdir": str(tmp_path / "runs")}), environment(uri))
        assert done.returncode == 0, done.stderr
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("ttt-mlflow")
        assert experiment is not None
        condition = "metrics.decode_tokens_per_s > 0 and tags.`ttt.status` = 'ok'"
        (only,) = client.search_runs([experiment.experiment_id], condition)
        assert only.info.run_name == "ttt-tiny mlp_1_dual b2 g3 cpu"
        artifacts = {entry.path for entry in client.list_artifacts(only.info.run_id)}
        assert {"config.json", "timing", "environment"} <= artifacts
        server.press_ctrl_c()
        server.wait()

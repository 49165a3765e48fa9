"""Databases of runs for the tests of backup, restore and upgrade."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient

from tests.project import new_store

HERE = Path(__file__).parent
OLD_SCHEMA = "b7e2c1a4d9f3"  # of MLflow 3.16
OLD_RUNS = {"ttt-tiny mlp_1_dual b2 g16 cpu": 812.5, "ttt-tiny mlp_1_dual b4 g16 cpu": 1490.25}


def team_folder(folder: Path) -> Path:
    """``folder`` with all that a server keeps in one: a database with a run, its artifacts, and accounts."""
    folder.mkdir()
    client = MlflowClient(new_store(folder))
    experiment = client.create_experiment("ttt-mlflow", artifact_location="mlflow-artifacts:/1")
    run = client.create_run(experiment, run_name="first")
    client.log_metric(run.info.run_id, "decode_tokens_per_s", 812.5)
    client.set_terminated(run.info.run_id)
    there = folder / "artifacts/1" / run.info.run_id / "artifacts/timing"
    there.mkdir(parents=True)
    (there / "passes.json").write_text('{"passes": 2}')
    (there / "große Datei.bin").write_bytes(bytes(range(256)) * 9000)  # more than one part of a copy
    with closing(sqlite3.connect(folder / "accounts.db")) as connection, connection:
        connection.execute("CREATE TABLE users (username TEXT, password_hash TEXT)")
        connection.execute("INSERT INTO users VALUES ('ada', 'scrypt:1')")
    (folder / "accounts.ini").write_text("[mlflow]\ndefault_permission = READ\n")
    (folder / "secret-key").write_text("0123456789abcdef\n")
    return folder


def artifacts_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def runs_of(uri: str) -> dict[str, float]:
    """The throughput of each run by its name, read by MLflow."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ttt-mlflow")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return {str(run.info.run_name): run.data.metrics["decode_tokens_per_s"] for run in found}


def old_sqlite(path: Path) -> str:
    """The URI of a new file with two runs of MLflow 3.16."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((HERE / "store_of_3_16_sqlite.sql").read_text())
    return f"sqlite:///{path}"


def old_postgresql(uri: str) -> None:
    """Put two runs of MLflow 3.16 into an empty database."""
    dump = str(HERE / "store_of_3_16_postgresql.sql")
    command = ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={uri}", f"--file={dump}"]
    subprocess.run(command, check=True, capture_output=True)

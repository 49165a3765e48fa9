"""scripts/server/upgrade.py, on databases that MLflow 3.16 made."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from scripts.server import manifest, schema
from scripts.server.check import database_fault
from scripts.server.database import Sqlite, database_at
from scripts.server.failing import Failed, Refused
from scripts.server.upgrade import upgrade
from tests.project import ROOT, environment, run
from tests.scripts.server.conftest import Cluster
from tests.scripts.server.stores import OLD_RUNS, OLD_SCHEMA, old_postgresql, old_sqlite, runs_of

SCRIPT = str(ROOT / "scripts/server/upgrade.sh")


@pytest.mark.long
def test_the_runs_of_an_sqlite_file_are_all_there(tmp_path: Path) -> None:
    uri = old_sqlite(tmp_path / "mlflow.db")
    (tmp_path / "backups").mkdir()
    done = run([SCRIPT, "--folder", str(tmp_path), "--backup-to", f"{tmp_path}/backups"], environment())
    assert done.returncode == 0, done.stderr
    assert f"from version {OLD_SCHEMA} to {schema.newest()}" in done.stderr
    assert "Upgraded: 2 runs in 2 experiments, as before" in done.stderr
    assert runs_of(uri) == OLD_RUNS
    assert database_fault(uri) is None
    (backup,) = (tmp_path / "backups").iterdir()
    assert manifest.read(backup).schema == OLD_SCHEMA
    again = run([SCRIPT, "--folder", str(tmp_path), "--no-backup"], environment())
    assert again.returncode == 0
    assert "nothing to do" in again.stderr


def test_the_runs_in_postgresql_are_all_there(cluster: Cluster, tmp_path: Path) -> None:
    uri = cluster.uri(cluster.new())
    old_postgresql(uri)
    with psycopg.connect(uri), pytest.raises(Refused, match=r"it is in use \(1 other connections\); stop the server"):
        upgrade(database_at(uri), tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert database_at(uri).content().schema == OLD_SCHEMA
    upgrade(database_at(uri), tmp_path, tmp_path)
    assert runs_of(uri) == OLD_RUNS
    assert database_fault(uri) is None
    (backup,) = tmp_path.iterdir()
    assert (backup / "mlflow.dump").read_bytes().startswith(b"PGDMP")


def test_an_sqlite_file_in_use(tmp_path: Path) -> None:
    old_sqlite(tmp_path / "mlflow.db")
    holder = [sys.executable, "-c", "import sys; kept = open(sys.argv[1]); print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        [*holder, str(tmp_path / "mlflow.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with pytest.raises(Refused, match=f"the processes python.* {process.pid}"):
                upgrade(Sqlite(tmp_path / "mlflow.db"), tmp_path, None)
        finally:
            process.stdin.close()


def test_a_database_of_a_newer_mlflow(tmp_path: Path) -> None:
    old_sqlite(tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of_tomorrow'")
    with pytest.raises(Refused, match="of a newer MLflow than"):
        upgrade(Sqlite(tmp_path / "mlflow.db"), tmp_path, None)


def test_an_upgrade_that_fails_names_the_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_sqlite(tmp_path / "mlflow.db")

    def broken(uri: str) -> None:
        raise RuntimeError("half\nof it")

    monkeypatch.setattr("scripts.server.upgrade._mlflow_db_upgrade", broken)
    with pytest.raises(Failed, match=r"the upgrade failed \(half of it\); the database as it was is in .*restore\.sh"):
        upgrade(Sqlite(tmp_path / "mlflow.db"), tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "an upgrade cannot be taken back; give a folder for a backup with --backup-to, or --no-backup"),
        (["--backup-to", "x", "--no-backup"], "give one of the two"),
        (["--backup-to"], "--backup-to needs a value"),
        (["--bakcup-to=x"], "--bakcup-to is no option of this script"),
    ],
)
def test_what_is_asked_for_wrongly(options: list[str], said: str) -> None:
    done = run([SCRIPT, *options], environment())
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["backup.sh", "restore.sh", "upgrade.sh"])
def test_help_has_examples(name: str) -> None:
    done = run([str(ROOT / "scripts/server" / name), "--help"], environment())
    assert done.returncode == 0
    assert f"\n  ./scripts/server/{name} --" in done.stdout

"""The drill of docs/server-backup.md: a server with PostgreSQL, a backup while it runs, a lost disk, a restore."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from scripts.server.database import database_at
from tests.project import QUICK, ROOT, Started, environment, free_port, run, started, ttt_mlflow_run
from tests.scripts.server.conftest import Cluster
from tests.scripts.server.stores import artifacts_of

SCRIPTS = ROOT / "scripts"


@contextmanager
def serving(folder: Path, database: str, port: int) -> Iterator[Started]:
    command = [str(SCRIPTS / "server.sh"), "--port", str(port), "--workers", "1", "--database", database]
    with started([*command, "--artifacts", f"{folder}/artifacts"], environment(), folder.parent) as server:
        server.wait_for(lambda: "export MLFLOW_TRACKING_URI=" in server.output)
        yield server
        server.press_ctrl_c()
        assert server.wait() == 0


def what_clients_see(uri: str, to: Path) -> dict[str, object]:
    """Each run with its values and its artifacts, through the server."""
    client = MlflowClient(uri)
    found: dict[str, object] = {}
    experiment = client.get_experiment_by_name("ttt-mlflow")
    assert experiment is not None
    for one in client.search_runs([experiment.experiment_id]):
        folder = to / one.info.run_id
        download_artifacts(run_id=one.info.run_id, dst_path=str(folder), tracking_uri=uri)
        found[one.info.run_id] = (one.to_dictionary(), artifacts_of(folder))
    return found


@pytest.mark.long
def test_a_lost_disk(cluster: Cluster, tmp_path: Path) -> None:
    database, port = cluster.new(), free_port()
    uri = f"http://127.0.0.1:{port}"
    disk, backups, records = tmp_path / "disk", tmp_path / "backups", tmp_path / "records"
    for folder in (disk, backups):
        folder.mkdir()
    measure = ttt_mlflow_run({**QUICK, "logdir": str(records)})
    with serving(disk, cluster.uri(database), port):
        done = run(measure, environment(uri))
        assert done.returncode == 0, done.stderr
        before = what_clients_see(uri, tmp_path / "before")
        # while the server runs
        command = [str(SCRIPTS / "server/backup.sh"), "--to", str(backups), "--folder", str(disk)]
        done = run([*command, "--database", cluster.uri(database)], environment())
        assert done.returncode == 0, done.stderr
        backup = done.stdout.strip()
        assert database_at(cluster.uri(database)).users(), "an upgrade would not see the server"
        later = run(measure, environment(uri))
        assert later.returncode == 0, later.stderr
    assert len(before) == 1
    shutil.rmtree(disk)
    cluster.execute(f"drop database {database}")

    new = cluster.new()
    command = [str(SCRIPTS / "server/restore.sh"), "--from", backup, "--folder", f"{tmp_path}/new"]
    done = run([*command, "--database", cluster.uri(new)], environment())
    assert done.returncode == 0, done.stderr
    with serving(tmp_path / "new", cluster.uri(new), port):
        assert what_clients_see(uri, tmp_path / "after") == before
        # what was measured since the backup comes from the records of whoever measured
        done = run(["ttt-mlflow", "sync", "--verify", str(records)], environment(uri))
        assert done.returncode == 0, done.stdout + done.stderr
        synced = what_clients_see(uri, tmp_path / "synced")
        assert len(synced) == 2
        assert before.items() <= synced.items()

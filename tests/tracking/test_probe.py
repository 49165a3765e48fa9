"""The right to write to a tracking store: tried, and nothing left behind that a person would see."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from tests.project import free_port
from ttt_mlflow.tracking import probe
from ttt_mlflow.tracking.experiments import experiment_named
from ttt_mlflow.tracking.probe import RUN_NAME, check_writing
from ttt_mlflow.tracking.store import (
    DEFAULT_EXPERIMENT,
)


def test_a_server_that_takes_records(server_uri: str) -> None:
    client = MlflowClient(server_uri)
    experiment_id = client.create_experiment("probed")
    assert check_writing(server_uri, "probed") is None
    assert client.search_runs([experiment_id]) == []
    (deleted,) = client.search_runs([experiment_id], run_view_type=ViewType.DELETED_ONLY)
    assert deleted.info.run_name == probe.RUN_NAME
    assert client.list_artifacts(deleted.info.run_id) == []


def test_an_experiment_that_is_not_there_is_not_made(server_uri: str) -> None:
    assert check_writing(server_uri, "nobody's") is None
    assert MlflowClient(server_uri).get_experiment_by_name("nobody's") is None


def test_artifacts_that_are_refused(server_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def log_artifact(*_: object) -> None:
        raise MlflowException("the bucket is read-only")

    client = MlflowClient(server_uri)
    experiment_id = experiment_named(client, DEFAULT_EXPERIMENT)
    monkeypatch.setattr(HttpArtifactRepository, "log_artifact", log_artifact)
    reason = check_writing(server_uri, None)
    assert reason == "it does not allow a client to write a run's artifact (the bucket is read-only)"
    left = client.search_runs([experiment_id], f"attributes.run_name = '{RUN_NAME}'")
    assert left == [], "the run is deleted all the same"


def test_the_default_experiment_is_made(server_uri: str) -> None:
    """Without it, the check could not tell whether a run may make it."""
    client = MlflowClient(server_uri)
    assert check_writing(server_uri, None) is None
    made = client.get_experiment_by_name(DEFAULT_EXPERIMENT)
    assert made is not None
    deleted = client.search_runs([made.experiment_id], run_view_type=ViewType.DELETED_ONLY)
    assert probe.RUN_NAME in [run.info.run_name for run in deleted]


def test_a_dead_server() -> None:
    reason = check_writing(f"http://127.0.0.1:{free_port()}", None)
    assert reason is not None
    assert "does not answer as an MLflow server" in reason
    assert "refused" in reason


@contextmanager
def read_only_server() -> Iterator[str]:
    """Answers a search as MLflow does, and permits nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            search = self.path.endswith("experiments/search")
            body = b'{"experiments": []}' if search else b'{"error_code": "PERMISSION_DENIED", "message": "not yours"}'
            self.send_response(200 if search else 403)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            body = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}'
            self.send_response(404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_that_permits_reading_only() -> None:
    with read_only_server() as uri:
        reason = check_writing(uri, None)
    assert reason is not None
    assert reason.startswith("it does not allow a client to use the experiment ttt-mlflow (")
    assert "refused with 403: no user and no token were sent; set MLFLOW_TRACKING_TOKEN" in reason


def test_an_artifact_that_comes_back_changed(server_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_: object, remote: str, local: str) -> None:
        Path(local).write_text("a login page")

    monkeypatch.setattr(HttpArtifactRepository, "_download_file", download)
    reason = check_writing(server_uri, None)
    assert reason == "it does not allow a client to read a run's artifact (what comes back is not what was sent)"


def test_an_sqlite_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    before = path.read_bytes()
    assert check_writing(f"sqlite:///{path}", None) is None
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_sqlite_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert check_writing(f"sqlite:///{tmp_path}/mlflow.db", None) is None
    assert list(tmp_path.iterdir()) == []


def test_a_locked_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "CHECK_SECONDS", 0.1)
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("BEGIN IMMEDIATE")
        reason = check_writing(f"sqlite:///{path}", None)
    assert reason == f"{path} is not writable (database is locked)"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("not a database at all")
    assert check_writing(f"sqlite:///{path}", None) == f"{path} is not an SQLite database: use another file"

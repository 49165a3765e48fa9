"""The first use of a store, by several at once and by one that is killed."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow.store.db import utils

from tests.project import ROOT, environment
from ttt_mlflow.tracking import new_store
from ttt_mlflow.tracking.new_store import make_ready, sqlite_file, sqlite_uri
from ttt_mlflow.tracking.store import check_tracking, resolve_tracking_uri

MAKE = "import sys; from ttt_mlflow.tracking.new_store import make_ready; make_ready(sys.argv[1])"
USE = f"""{MAKE}
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
client.set_terminated(client.create_run("0").info.run_id)
"""
IN_PLACE = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def process(program: str, uri: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program, uri]
    return subprocess.Popen(command, env=environment(), cwd=ROOT, stderr=subprocess.PIPE)


def at_once(action: Callable[[], None], number: int = 4) -> None:
    with ThreadPoolExecutor(number) as threads:
        for future in [threads.submit(action) for _ in range(number)]:
            future.result()


def assert_whole(path: Path) -> None:
    assert rows(path, "SELECT name FROM experiments") == [("Default",)]
    assert not [name for (name,) in rows(path, "SELECT name FROM sqlite_master") if name.startswith("_alembic_tmp")]
    assert [one.name for one in path.parent.iterdir()] == [path.name], "nothing is left beside it"


def older_store(path: Path) -> None:
    """A store as MLflow made it some versions ago: without the newest tables."""
    from alembic import command
    from alembic.script import ScriptDirectory

    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(f"sqlite:///{path}")
    revisions = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()]
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revisions[-12])
    engine.dispose()


def test_at_once(tmp_path: Path) -> None:
    at_once(lambda: make_ready(f"sqlite:///{tmp_path}/new/mlflow.db"))
    assert_whole(tmp_path / "new/mlflow.db")


def test_an_empty_file_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    at_once(lambda: make_ready(f"sqlite:///{tmp_path}/mlflow.db"), 2)
    assert_whole(tmp_path / "mlflow.db")


@pytest.mark.long
def test_an_older_store_is_upgraded_once(tmp_path: Path) -> None:
    older_store(tmp_path / "mlflow.db")
    at_once(lambda: make_ready(f"sqlite:///{tmp_path}/mlflow.db"))
    assert_whole(tmp_path / "mlflow.db")
    assert rows(tmp_path / "mlflow.db", "SELECT * FROM alembic_version") == [(utils._get_latest_schema_revision(),)]


def test_without_links_and_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have neither."""

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(new_store.fcntl, "flock", refuse)
    make_ready(f"sqlite:///{tmp_path}/mlflow.db")
    assert_whole(tmp_path / "mlflow.db")


@pytest.mark.long
def test_the_process_that_makes_it_is_killed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with process(MAKE, uri) as making:
        while not (beside := [*tmp_path.glob(".mlflow.db.*.new")]) or beside[0].stat().st_size < 50_000:
            assert making.poll() is None
            time.sleep(0.01)
        making.send_signal(signal.SIGKILL)
    assert not (tmp_path / "mlflow.db").exists(), "no half-made store stands in its place"
    make_ready(uri)
    assert_whole(tmp_path / "mlflow.db")


@pytest.mark.long
def test_mlflow_itself_makes_it_in_place_meanwhile(tmp_path: Path) -> None:
    """As `mlflow ui` and `mlflow run` do."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with process(IN_PLACE, uri) as making:
        while not (tmp_path / "mlflow.db").exists():
            assert making.poll() is None
            time.sleep(0.01)
        make_ready(uri)
        assert making.wait(60) == 0
    assert_whole(tmp_path / "mlflow.db")


@pytest.mark.long
def test_ten_processes_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    started = [process(USE, uri) for _ in range(10)]
    said = [one.communicate()[1].decode() for one in started]
    assert [one.returncode for one in started] == [0] * 10, said
    assert rows(tmp_path / "mlflow.db", "SELECT status FROM runs") == [("FINISHED",)] * 10
    assert_whole(tmp_path / "mlflow.db")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("SQLITE:////a/b.db?timeout=5", "/a/b.db"),
        ("sqlite+pysqlite:////a/b.db", "/a/b.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("http://h:5000", None),
        ("postgresql:///b.db", None),
    ],
)
def test_the_file_of_a_uri(uri: str, path: str | None) -> None:
    assert sqlite_file(uri) == (Path(path) if path else None)


@pytest.mark.parametrize("name", ["a b", "per%20cent", "a?b", "100%", "a%2Fb", "#1;&", "föl\n"])
def test_the_uri_of_any_file_leads_to_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / name / "mlflow.db"
    assert sqlite_file(sqlite_uri(file)) == file
    file.parent.mkdir()
    monkeypatch.chdir(file.parent)
    assert sqlite_file(resolve_tracking_uri("sqlite:///mlflow.db")) == file
    assert resolve_tracking_uri("sqlite:///mlflow.db?timeout=3") == f"{sqlite_uri(file)}?timeout=3"


def test_a_store_in_a_folder_as_mlflow_writes_its_path(tmp_path: Path) -> None:
    """`mlflow run` hands the default store on with %20 for a space."""
    folder = tmp_path / "with spaces"
    folder.mkdir()
    uri = f"sqlite:///{tmp_path}/with%20spaces/mlflow.db"
    make_ready(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["with spaces"]
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
    assert check_tracking(uri) is None

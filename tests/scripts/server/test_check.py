"""scripts/server/check.py: what a server cannot work with is said in one line, and nothing is made."""

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from scripts.server.artifacts import TRIAL
from scripts.server.check import artifacts_fault, database_fault
from tests.project import ROOT, environment, free_port, new_store, run, started
from tests.scripts.server.conftest import KEY, Cluster
from tests.scripts.server.stores import OLD_SCHEMA, old_postgresql, old_sqlite

PASSWORD = "s3same-0pen-9137"


def fault(uri: str) -> str:
    found = database_fault(uri)
    assert found is not None, "nothing was found"
    assert "\n" not in found
    assert PASSWORD not in found
    return found


def test_a_store_of_this_mlflow_and_a_new_one_are_taken(tmp_path: Path) -> None:
    assert database_fault(new_store(tmp_path)) is None
    assert database_fault(f"sqlite:///{tmp_path}/new/mlflow.db") is None
    assert not (tmp_path / "new").exists(), "the server makes it, not the check"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite://", "a database in memory ends with its server"),
        ("/srv/runs", "a folder of runs is no database"),
        ("postgres://me@host/x", "write it so"),
        ("postgresql://me:pa/s3same-0pen-9137@host:x/y", "give a number for the port"),
    ],
)
def test_what_is_no_database_of_a_server(uri: str, said: str) -> None:
    assert said in fault(uri)


def test_an_sqlite_file_of_an_older_and_of_a_newer_mlflow(tmp_path: Path) -> None:
    uri = old_sqlite(tmp_path / "old.db")
    before = (tmp_path / "old.db").read_bytes()
    assert f"older MLflow (version {OLD_SCHEMA}); run ./scripts/server/upgrade.sh" in fault(uri)
    assert (tmp_path / "old.db").read_bytes() == before, "MLflow itself would upgrade it, without a backup"
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of_tomorrow'")
    assert "of a newer MLflow than" in fault(uri)


def test_an_sqlite_file_of_something_else(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE books (title TEXT)")
    assert "tables of something else (books)" in fault(f"sqlite:///{tmp_path}/x.db")
    (tmp_path / "x.db").write_text("no database at all, and long enough")
    assert "is not an SQLite database" in fault(f"sqlite:///{tmp_path}/x.db")


def test_an_sqlite_file_that_another_program_keeps_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.server.check.LOCKED_S", 0.1)
    uri = new_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert "cannot be written to (database is locked)" in fault(uri)


def test_postgresql_that_does_not_answer() -> None:
    said = fault(f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/runs")
    assert "Connection refused" in said
    assert said.startswith("postgresql://me@127.0.0.1:")


def test_postgresql_with_a_wrong_password_and_the_right_one(cluster: Cluster) -> None:
    cluster.execute(f"create user ada password '{PASSWORD}'")
    name = cluster.new(owner="ada")
    assert database_fault(cluster.uri(name, "ada", PASSWORD)) is None
    said = fault(cluster.uri(name, "ada", f"{PASSWORD}x"))
    assert 'password authentication failed for user "ada"' in said
    assert "no password supplied" in fault(cluster.uri(name, "ada"))
    assert 'database "nowhere" does not exist' in fault(cluster.uri("nowhere", "ada", PASSWORD))


def test_postgresql_in_which_the_user_may_not_write(cluster: Cluster) -> None:
    cluster.execute(f"create user guest password '{PASSWORD}'")
    name = cluster.new()
    assert "the user may not make tables in it" in fault(cluster.uri(name, "guest", PASSWORD))
    cluster.execute(f"alter database {name} set default_transaction_read_only = on")
    assert "takes no writes" in fault(cluster.uri(name))


def test_postgresql_of_an_older_mlflow_and_of_something_else(cluster: Cluster) -> None:
    name = cluster.new()
    old_postgresql(cluster.uri(name))
    assert f"older MLflow (version {OLD_SCHEMA})" in fault(cluster.uri(name))
    other = cluster.new()
    cluster.execute("create table books (title text)", other)
    assert "tables of something else (books)" in fault(cluster.uri(other))


def test_a_folder_for_artifacts(tmp_path: Path) -> None:
    there = tmp_path / "artifacts"
    assert artifacts_fault(str(there)) is None
    assert artifacts_fault(f"file://{there}") is None
    assert not there.exists(), "the server makes it with the first artifact"
    there.mkdir()
    assert artifacts_fault(str(there)) is None
    assert list(there.iterdir()) == [], "what was written is removed"
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file is not a folder" in str(artifacts_fault(f"{tmp_path}/file"))
    assert f"{tmp_path}/file is not a folder" in str(artifacts_fault(f"{tmp_path}/file/below"))


def test_a_folder_that_cannot_be_written_to() -> None:
    """Not even root can, so that the test says the same for everybody."""
    assert "/proc/self cannot be written to" in str(artifacts_fault("/proc/self"))
    assert "/proc/self cannot be written to" in str(artifacts_fault("/proc/self/nothing/below"))


def test_artifacts_that_would_go_to_the_server_itself() -> None:
    assert "this is what clients use" in str(artifacts_fault("mlflow-artifacts:/x"))
    assert "this is what clients use" in str(artifacts_fault("http://host:5000"))


def test_a_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    assert artifacts_fault(f"s3://{bucket}/runs") is None
    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    assert client.list_objects_v2(Bucket=bucket).get("Contents", []) == [], "what was written is removed"
    assert "NoSuchBucket" in str(artifacts_fault("s3://another/runs"))
    said = artifacts_fault(f"s3://key:{KEY}@{bucket}/runs")
    assert said is not None
    assert "the key belongs into AWS_ACCESS_KEY_ID" in said
    assert KEY not in said
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in str(artifacts_fault(f"s3://{bucket}/runs"))


def test_a_bucket_that_takes_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that may read, but not write."""
    from botocore.exceptions import ClientError

    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "PutObject")

    class Client:
        def put_object(self, **_: object) -> None:
            raise denied

    monkeypatch.setattr("scripts.server.artifacts.Bucket._client", lambda self: Client())
    assert "AccessDenied" in str(artifacts_fault(f"s3://{bucket}/runs"))
    assert TRIAL.startswith(".")


def test_the_server_script_starts_nothing_and_makes_nothing(tmp_path: Path) -> None:
    """With the password in the URI, one line, no traceback, and MLflow's server is not there for a moment."""
    (tmp_path / "bin").mkdir()
    mlflow = tmp_path / "bin/mlflow"
    mlflow.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    mlflow.chmod(0o755)
    env = environment()
    env["PATH"] = f"{mlflow.parent}{os.pathsep}{env['PATH']}"
    database = f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/runs"
    command = [str(ROOT / "scripts/server.sh"), "--port", str(free_port()), "--database", database]
    done = run([*command, "--artifacts", f"{tmp_path}/artifacts"], env, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: postgresql://me@127.0.0.1:")
    assert "Connection refused" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert PASSWORD not in done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


@pytest.mark.long
def test_a_server_that_starts_names_its_database_without_the_password(cluster: Cluster, tmp_path: Path) -> None:
    cluster.execute(f"create user grace password '{PASSWORD}'")
    database, port = cluster.new(owner="grace"), free_port()
    script = [str(ROOT / "scripts/server.sh"), "--port", str(port), "--workers", "1", "--artifacts", f"{tmp_path}/a"]
    with started([*script, "--database", cluster.uri(database, "grace", PASSWORD)], environment(), tmp_path) as server:
        server.wait_for(lambda: "export MLFLOW_TRACKING_URI=" in server.output)
        server.press_ctrl_c()
        assert server.wait() == 0
    assert database in server.output
    assert PASSWORD not in server.output


def test_the_folder_of_the_user_holds_no_program_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/__init__.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        [str(ROOT / "scripts/server/backup.sh"), "--to", f"{tmp_path}/nowhere"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "there is no such folder" in done.stderr

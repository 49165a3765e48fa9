"""scripts/server/backup.py and restore.py: what is backed up is restored, whole or not at all."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from scripts.server import manifest
from scripts.server.artifacts import Folder, artifacts_at
from scripts.server.backup import back_up
from scripts.server.database import Database, Sqlite, database_at
from scripts.server.failing import Failed, Refused
from scripts.server.restore import refuse_occupied, restore
from scripts.server.upgrade import upgrade
from tests.project import ROOT, environment, run
from tests.scripts.server.conftest import Cluster
from tests.scripts.server.stores import OLD_RUNS, artifacts_of, old_postgresql, runs_of, team_folder

PASSWORD = "s3same-0pen-9137"


def sqlite_of(folder: Path) -> Sqlite:
    return Sqlite(folder / "mlflow.db")


def restored(backup: Path, folder: Path, database: Database, artifacts: str) -> None:
    listed = manifest.read(backup)
    manifest.verify(backup, listed)
    refuse_occupied(listed, folder, database, artifacts_at(artifacts))
    restore(backup, listed, folder, database, artifacts_at(artifacts))


@pytest.fixture
def team(tmp_path: Path) -> Path:
    return team_folder(tmp_path / "team")


@pytest.fixture
def backup(team: Path, tmp_path: Path) -> Path:
    (tmp_path / "backups").mkdir()
    return back_up(tmp_path / "backups", team, sqlite_of(team), Folder(team / "artifacts"))[0]


@pytest.mark.long
def test_all_of_it_is_back_after_a_lost_disk(team: Path, tmp_path: Path) -> None:
    """By the scripts, as a person uses them."""
    (tmp_path / "backups").mkdir()
    runs, artifacts = runs_of(f"sqlite:///{team}/mlflow.db"), artifacts_of(team / "artifacts")
    private = {name: (team / name).read_bytes() for name in ("accounts.ini", "secret-key")}
    script = str(ROOT / "scripts/server/backup.sh")
    done = run([script, "--to", f"{tmp_path}/backups", "--folder", str(team)], environment())
    assert done.returncode == 0, done.stderr
    made = Path(done.stdout.strip())
    assert "Backed up: 1 runs in 2 experiments, 2 artifacts, with accounts; " in done.stderr
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.rglob("*") if path.is_file()} == {0o600}
    shutil.rmtree(team)

    script = str(ROOT / "scripts/server/restore.sh")
    done = run([script, "--from", str(made), "--folder", f"{tmp_path}/new"], environment())
    assert done.returncode == 0, done.stderr
    assert "1 runs in 2 experiments, 2 artifacts, with accounts" in done.stderr
    new = tmp_path / "new"
    assert runs_of(f"sqlite:///{new}/mlflow.db") == runs == {"first": 812.5}
    assert artifacts_of(new / "artifacts") == artifacts
    for name, content in private.items():
        assert (new / name).read_bytes() == content
    for name in ("accounts.db", *private):
        assert stat.S_IMODE((new / name).stat().st_mode) == 0o600
    with closing(sqlite3.connect(new / "accounts.db")) as connection:
        assert connection.execute("SELECT * FROM users").fetchall() == [("ada", "scrypt:1")]


def test_postgresql_and_back_into_another_database(cluster: Cluster, tmp_path: Path) -> None:
    """Of a user who needs a password, which is on no command line; the backup of an older MLflow can be upgraded."""
    cluster.execute(f"create user keeper password '{PASSWORD}'")
    first, second = cluster.new(owner="keeper"), cluster.new(owner="keeper")
    database = database_at(cluster.uri(first, "keeper", PASSWORD))
    old_postgresql(database.uri)
    made, content = back_up(tmp_path, tmp_path, database, None)
    assert PASSWORD not in (made / manifest.NAME).read_text()
    other = database_at(cluster.uri(second, "keeper", PASSWORD))
    restored(made, tmp_path / "new", other, f"{tmp_path}/new/artifacts")
    assert other.content() == content
    with pytest.raises(Refused, match=r"the database is not empty \(\d+ tables\)"):
        restored(made, tmp_path / "new", other, f"{tmp_path}/new/artifacts")
    upgrade(other, tmp_path, None)
    assert runs_of(other.uri) == OLD_RUNS


def test_no_command_line_shows_the_password(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    true = subprocess.run

    def note(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return true(command, **how)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", note)
    name = cluster.new()
    old_postgresql(cluster.uri(name))
    uri = f"{cluster.uri(name)}?password={PASSWORD}&application_name=backup"
    back_up(tmp_path, tmp_path, database_at(uri), None)
    (dump,) = (command for command in called if command[0] == "pg_dump")
    assert "application_name=backup" in " ".join(dump)
    assert PASSWORD not in " ".join(dump)


def test_a_bucket_into_a_folder_and_back(bucket: str, team: Path, tmp_path: Path) -> None:
    artifacts, before = f"s3://{bucket}/runs", artifacts_of(team / "artifacts")
    for name in before:
        artifacts_at(artifacts).put(name, team / "artifacts" / name)
    (tmp_path / "backups").mkdir()
    made, _ = back_up(tmp_path / "backups", team, sqlite_of(team), artifacts_at(artifacts))
    assert artifacts_of(made / "artifacts") == before
    with pytest.raises(Refused, match="it is not empty"):
        restored(made, tmp_path / "new", sqlite_of(tmp_path / "new"), artifacts)
    restored(made, tmp_path / "new", sqlite_of(tmp_path / "new"), f"s3://{bucket}/others")
    assert set(artifacts_at(f"s3://{bucket}/others").names()) == set(before)
    for name in before:
        artifacts_at(f"s3://{bucket}/others").fetch(name, tmp_path / "read" / name)
    assert artifacts_of(tmp_path / "read") == before


def test_a_run_that_has_ended_in_the_backup_has_its_artifacts_there(team: Path, tmp_path: Path) -> None:
    """While a server writes: artifacts first, then the end of the run, as the product does."""
    uri, stop, errors = f"sqlite:///{team}/mlflow.db", threading.Event(), []
    experiment = MlflowClient(uri).get_experiment_by_name("ttt-mlflow")
    assert experiment is not None

    def publish() -> None:
        client, count = MlflowClient(uri), 0
        try:
            while not stop.is_set():
                run_id = client.create_run(experiment.experiment_id).info.run_id
                for number in range(3):
                    file = team / f"artifacts/1/{run_id}/artifacts/{number}.json"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text("{}")
                client.set_terminated(run_id)
                count += 1
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    counts = []
    try:
        for number in range(4):
            to = tmp_path / str(number)
            to.mkdir()
            made, content = back_up(to, team, sqlite_of(team), Folder(team / "artifacts"))
            counts.append(content.rows["runs"])
            with closing(sqlite3.connect(made / "mlflow.db")) as connection:
                ended = connection.execute("SELECT run_uuid FROM runs WHERE status = 'FINISHED' AND name != 'first'")
                for (run_id,) in ended.fetchall():
                    assert len(list((made / f"artifacts/1/{run_id}/artifacts").iterdir())) == 3
            manifest.verify(made, manifest.read(made))
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert counts[-1] > counts[0], "nothing was written meanwhile"


def test_a_backup_that_fails_leaves_nothing(team: Path, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    (team / "artifacts/1/elsewhere").symlink_to("/etc")
    with pytest.raises(Refused, match="a backup follows no links"):
        back_up(tmp_path / "backups", team, sqlite_of(team), Folder(team / "artifacts"))
    assert list((tmp_path / "backups").iterdir()) == []


def test_where_a_backup_is_not_made(team: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no such folder; make it"):
        back_up(tmp_path / "not-mounted", team, sqlite_of(team), None)
    assert not (tmp_path / "not-mounted").exists()
    with pytest.raises(Refused, match="inside the artifacts"):
        back_up(team / "artifacts/1", team, sqlite_of(team), Folder(team / "artifacts"))
    with pytest.raises(Refused, match="there is no such file"):
        back_up(tmp_path, tmp_path, sqlite_of(tmp_path), None)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_damaged_database_is_no_backup(team: Path, tmp_path: Path) -> None:
    content = bytearray((team / "mlflow.db").read_bytes())
    content[8192:120_000] = os.urandom(120_000 - 8192)
    (team / "mlflow.db").write_bytes(content)
    (tmp_path / "backups").mkdir()
    with pytest.raises(Failed, match=r"malformed|damaged"):
        back_up(tmp_path / "backups", team, sqlite_of(team), None)
    assert list((tmp_path / "backups").iterdir()) == []


@pytest.mark.long
def test_runs_whose_artifacts_are_elsewhere_are_told(team: Path, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{team}/mlflow.db")
    client.create_run(client.create_experiment("mine", artifact_location=f"{tmp_path}/mine"))
    (tmp_path / "backups").mkdir()
    script = str(ROOT / "scripts/server/backup.sh")
    done = run([script, f"--to={tmp_path}/backups", f"--folder={team}"], environment())
    assert done.returncode == 4, done.stderr
    assert "Error: 1 runs have their artifacts elsewhere" in done.stderr
    assert manifest.read(Path(done.stdout.strip())).rows["runs"] == 2


@pytest.mark.parametrize("how", ["changed", "shorter", "missing", "added", "replaced by a link"])
def test_a_damaged_backup_is_not_restored(how: str, backup: Path, tmp_path: Path) -> None:
    (file,) = backup.rglob("passes.json")
    if how == "changed":
        file.write_text('{"passes": 3}')
    elif how == "shorter":
        file.write_text("{}")
    elif how == "added":
        (file.parent / "new.json").write_text("{}")
    else:
        content = file.read_text()
        file.unlink()
        if how == "replaced by a link":
            (tmp_path / "other").write_text(content)
            file.symlink_to(tmp_path / "other")
    with pytest.raises(Refused, match=r"the backup is damaged: artifacts/.*Use another one"):
        restored(backup, tmp_path / "new", sqlite_of(tmp_path / "new"), f"{tmp_path}/new/artifacts")
    assert not (tmp_path / "new").exists()


def test_a_backup_without_its_manifest_is_not_complete(backup: Path) -> None:
    (backup / manifest.NAME).unlink()
    with pytest.raises(Refused, match=r"no complete backup, because manifest\.json is not in it"):
        manifest.read(backup)


@given(
    st.dictionaries(st.sampled_from(["kind", "files", "format", "rows", "x"]), st.none() | st.integers() | st.text())
)
def test_any_other_manifest_is_refused(changes: dict[str, object]) -> None:
    with TemporaryDirectory() as name:
        whole: dict[str, object] = {
            "made": "",
            "mlflow": "",
            "kind": "sqlite",
            "database": "",
            "schema": "",
            "rows": {},
        }
        whole |= {"artifacts": None, "files": {}, "format": 1}
        (Path(name) / manifest.NAME).write_text(json.dumps(whole | changes))
        with pytest.raises(Refused):
            manifest.read(Path(name))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//b", "artifacts/../x"])
def test_a_manifest_that_leads_elsewhere(name: str, backup: Path) -> None:
    path = backup / manifest.NAME
    content = json.loads(path.read_text())
    content["files"][name] = {"bytes": 1, "sha256": "0"}
    path.write_text(json.dumps(content))
    with pytest.raises(Refused, match="is no name of a file in a backup"):
        manifest.read(backup)


@pytest.mark.parametrize("name", ["mlflow.db", "accounts.db", "secret-key", "artifacts/0/x"])
def test_nothing_is_ever_replaced(name: str, backup: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(Refused, match=r"exists; move it away|it is not empty"):
        restored(backup, tmp_path / "new", sqlite_of(tmp_path / "new"), f"{tmp_path}/new/artifacts")
    assert [path for path in (tmp_path / "new").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "mine"


def test_another_kind_of_database_is_refused(backup: Path, tmp_path: Path, cluster: Cluster) -> None:
    with pytest.raises(Refused, match="the backup is of sqlite"):
        restored(backup, tmp_path / "new", database_at(cluster.uri("runs")), f"{tmp_path}/new/artifacts")


def test_a_restore_that_fails_takes_back_what_it_made(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Sqlite, source: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sqlite, "restore", full)
    with pytest.raises(Failed, match="No space left on device"):
        restored(backup, tmp_path / "new", sqlite_of(tmp_path / "new"), f"{tmp_path}/new/artifacts")
    assert [path for path in (tmp_path / "new").rglob("*") if path.is_file()] == []

"""``sync``: what is not in MLflow yet is published, once, as what it is."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.catalog import metrics, tags
from tests.proxies import Answer, proxy
from tests.record.conftest import MakeJournal
from tests.tracking.test_publish import closed_address
from ttt_mlflow.app.records import sync_records
from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.publish import publish
from ttt_mlflow.tracking.sync import SyncResult, sync


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def outcomes(root: Path, uri: str | None) -> list[str]:
    return [result.outcome for result in sync(root, uri)]


def abandon(journal: Journal) -> None:
    status = journal.status
    status["process"]["start_ticks"] = 1
    journal._write_json("status.json", status)


def test_everything_is_published_once_as_what_it_is(root: Path, sqlite_uri: str, make_journal: MakeJournal) -> None:
    journals = [make_journal("ok"), make_journal("running"), make_journal("oom"), make_journal("running")]
    abandon(journals[1])
    publish(journals[2], sqlite_uri)

    results = sync(root, sqlite_uri)
    assert [result.journal.path for result in results] == [journal.path for journal in journals]
    expected = ["published", "published", "already published", "still running"]
    assert [result.outcome for result in results] == expected
    client = MlflowClient(sqlite_uri)
    runs = [client.get_run(result.run.run_id) for result in results if result.run]
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]

    assert outcomes(root, sqlite_uri) == ["already published"] * 3 + ["still running"]
    assert outcomes(journals[0].path, None) == ["already published"]


def test_an_unreachable_server_is_asked_once(
    root: Path, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttt_mlflow.tracking import sync as sync_module

    asked: list[str] = []

    def unreachable(uri: str) -> str:
        asked.append(uri)
        return "no route to host"

    monkeypatch.setattr(sync_module, "check_tracking", unreachable)
    make_journal(), make_journal()
    results = sync(root, "http://user:secret@team:5000")
    for result in results:
        assert result.message is not None
        assert "no route to host" in result.message
        assert "secret" not in result.message
    assert asked == ["http://user:secret@team:5000"]


def whole_command(journal: Journal, uri: str) -> str:
    return f"ttt-mlflow sync {journal.path} --tracking-uri {uri}"


@pytest.mark.parametrize(
    "uri",
    [
        "http://elsewhere.example:5000",
        "https://elsewhere.example",
        "postgresql://db.example/mlflow",
        "databricks://profile",
        "plugin://somewhere",
    ],
)
def test_a_record_does_not_choose_a_server(
    root: Path, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    """Nothing is even asked there: the question would carry the user's token."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the user's token")
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail("something was asked"))
    journal = make_journal()
    journal.set_target(uri)
    (result,) = sync(root)
    assert result.outcome == "no destination"
    assert result.remains
    assert whole_command(journal, uri) in str(result.message)
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize("target", [None, "file:///dev/null/ttt-mlflow-ab", "/some/folder"])
def test_a_record_that_names_no_store(root: Path, make_journal: MakeJournal, target: str | None) -> None:
    journal = make_journal()
    if target:
        journal.set_target(target)
    (result,) = sync(root)
    assert result.outcome == "no destination"
    assert whole_command(journal, "URI") in str(result.message)
    assert not Path("mlflow.db").exists()


def test_a_record_goes_to_the_file_that_it_names(root: Path, tmp_path: Path, make_journal: MakeJournal) -> None:
    """If that exists and is MLflow's: another program's database is not changed."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    journal = make_journal()
    journal.set_target(uri)
    (result,) = sync(root)
    assert (result.outcome, (tmp_path / "mlflow.db").exists()) == ("no destination", False)
    assert "which is not there" in str(result.message)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as cookies:
        cookies.execute("CREATE TABLE cookies (name)")
    assert outcomes(root, None) == ["no destination"]
    (tmp_path / "mlflow.db").unlink()
    MlflowClient(uri).search_experiments()  # makes it
    (result,) = sync(root)
    assert result.run is not None
    assert result.run.tracking_uri == uri


@pytest.mark.long
@pytest.mark.parametrize("place", ["http://elsewhere.example/artifacts", "/etc/ttt-mlflow-test"])
def test_a_file_that_only_the_record_names_keeps_its_artifacts_beside_it(
    root: Path, tmp_path: Path, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It came with the record: nobody but whoever wrote the record chose where its artifacts go."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment_id = MlflowClient(uri).create_experiment("theirs", place)
    journal = make_journal()
    journal.set_target(uri, None, None, experiment_id)
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail("something was asked"))
    (result,) = sync(root)
    assert result.outcome == "failed"
    assert "nobody but the record names this store" in str(result.message)
    assert not Path("/etc/ttt-mlflow-test").exists()


def test_the_run_that_was_begun_is_completed(root: Path, server_uri: str, make_journal: MakeJournal) -> None:
    """The server was away at the run's end."""
    client = MlflowClient(server_uri)
    tags = {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": "main"}
    given = client.create_run(client.create_experiment(str(root)), tags=tags)
    journal = make_journal()
    journal.set_target(server_uri, given.info.run_id)
    (result,) = sync(root, server_uri)
    assert result.run is not None
    assert (result.run.run_id, result.run.tracking_uri) == (given.info.run_id, server_uri)


def test_a_record_that_is_being_published_is_no_failure(
    root: Path, sqlite_uri: str, make_journal: MakeJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = make_journal()
    with journal.publishing():
        (result,) = sync(root, sqlite_uri)
        assert (result.outcome, result.remains) == ("being published", False)
        assert sync_records(str(root), sqlite_uri) == 0
    assert f"{journal.journal_id}: being published" in capsys.readouterr().out


def test_what_was_published_is_verified_on_request(root: Path, sqlite_uri: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    run_id = publish(journal, sqlite_uri).run_id
    kept = Path(MlflowClient(sqlite_uri).get_run(run_id).info.artifact_uri, "timing/steps.csv")
    kept.write_text("")
    assert outcomes(root, sqlite_uri) == ["already published"]
    assert kept.read_text() == ""
    (result,) = sync(root, sqlite_uri, verify=True)
    assert result.outcome == "published"
    assert kept.read_text() == (journal.artifacts / "timing/steps.csv").read_text()


def test_the_environment_names_the_store(
    root: Path, sqlite_uri: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PublishFailed):
        publish(make_journal(), closed_address())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    (result,) = sync(root)
    assert result.run is not None
    assert result.run.tracking_uri == sqlite_uri


def test_a_published_journal_goes_to_another_store_only_when_asked(
    root: Path,
    sqlite_uri: str,
    server_uri: str,
    make_journal: MakeJournal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(make_journal(), sqlite_uri)
    publish(make_journal(), sqlite_uri)
    assert [result.notes for result in sync(root)] == [(), ()]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_uri)
    first, second = sync(root)
    assert (first.outcome, second.outcome) == ("already published", "already published")
    assert "unless --tracking-uri names that store" in "".join(first.notes), "or it would seem to be there"
    assert second.notes == (), "once is enough"
    assert outcomes(root, server_uri) == ["published", "published"]


def test_damaged_journals_do_not_stop_the_others(
    root: Path, sqlite_uri: str, make_journal: MakeJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is named, set aside and counted, and the run that was begun for it ends."""
    client = MlflowClient(sqlite_uri)
    unreadable, changed, _ = make_journal(), make_journal(), make_journal()
    run_id = client.create_run("0", tags={"ttt.journal_id": unreadable.journal_id}).info.run_id
    unreadable.set_target(sqlite_uri, run_id)
    (unreadable.path / "status.json").write_text("{")
    (changed.path / "metrics.json").write_text("{")
    assert sync_records(str(root), sqlite_uri) == 4
    said = capsys.readouterr()
    for journal in (unreadable, changed):
        assert f"Error: {journal.journal_id}: damaged and set aside: " in said.err
    assert "Not in MLflow: 2 of 3 records (2 damaged)" in said.err
    assert said.out.count(": published") == 1
    assert client.get_run(run_id).info.status == "FAILED"
    assert sorted(outcomes(root, sqlite_uri)) == ["already published", "damaged", "damaged"]


def test_a_link_to_a_record_ends_no_run(root: Path, tmp_path: Path, sqlite_uri: str, make_journal: MakeJournal) -> None:
    client = MlflowClient(sqlite_uri)
    elsewhere = make_journal("running", root=tmp_path / "elsewhere")
    run_id = client.create_run("0", tags={"ttt.journal_id": elsewhere.journal_id}).info.run_id
    elsewhere.set_target(sqlite_uri, run_id)
    root.mkdir(exist_ok=True)
    (root / elsewhere.journal_id).symlink_to(elsewhere.path)
    assert all(result.outcome == "damaged" for result in sync(root, sqlite_uri))
    assert client.get_run(run_id).info.status == "RUNNING"


def test_an_empty_folder_and_none(tmp_path: Path) -> None:
    assert sync(tmp_path) == []
    with pytest.raises(BadInput, match="no such folder"):
        sync(tmp_path / "nowhere")


def valid(make_journal: MakeJournal, tokens_per_s: float, config_id: str) -> Journal:
    journal = make_journal("running")
    journal.update_tags(tags({"ttt.verdict": "valid", "ttt.config_id": config_id}))
    journal.update_metrics(metrics({"decode_tokens_per_s": tokens_per_s}))
    journal.set_status("ok", exit_code=0)
    return journal


def test_the_best_run_is_marked_also_if_an_earlier_sync_was_stopped(
    root: Path, sqlite_uri: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "stopped")
    journals = [valid(make_journal, speed, config) for speed, config in [(3, "a"), (9, "b"), (7, "a"), (5, "a")]]

    def stop(result: SyncResult, number: int, count: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    def best() -> set[str]:
        client = MlflowClient(sqlite_uri)
        experiment = client.get_experiment_by_name("stopped")
        assert experiment
        runs = client.search_runs([experiment.experiment_id], "tags.`ttt.best` = 'true'")
        return {run.data.tags["ttt.journal_id"] for run in runs}

    with pytest.raises(KeyboardInterrupt):
        sync(root, sqlite_uri, tell=stop)
    assert best() == {journals[1].journal_id}, "of the other configuration a record is left"
    assert outcomes(root, sqlite_uri) == ["already published"] * 3 + ["published"]
    assert best() == {journals[1].journal_id, journals[2].journal_id}


def test_whoever_may_not_write_is_refused_once_for_an_experiment(
    root: Path, server_uri: str, make_journal: MakeJournal
) -> None:
    def forbidden(method: str, path: str) -> Answer | None:
        return Answer(403, b"Permission denied", "text/plain") if path.endswith("/runs/create") else None

    with proxy(forbidden, server_uri) as between:
        journals = [make_journal(), make_journal(), make_journal()]
        journals[2].set_target(between.uri, None, "another experiment", None)
        results = sync(root, between.uri)
    assert [result.outcome for result in results] == ["failed"] * 3
    assert len([path for _, path in between.requests if path.endswith("/runs/create")]) == 2
    assert results[1].message == f"{between.uri}: refused as before, with a record of the same experiment"
    for result in (results[0], results[2]):
        assert result.message is not None
        assert "refused with 403" in result.message


def test_how_many_requests_are_sent(root: Path, server_uri: str, make_journal: MakeJournal) -> None:
    count = 5
    for _ in range(count):
        valid(make_journal, 1.0, "requests")
    with proxy(lambda method, path: None, server_uri) as first, proxy(lambda method, path: None, server_uri) as second:
        assert outcomes(root, first.uri) == ["published"] * count
        assert outcomes(root, first.uri) == ["already published"] * count
        again = len(first.requests)
        assert outcomes(root, first.uri) == ["already published"] * count
        assert len(first.requests) == again, "the record says where it is"
        assert outcomes(root, second.uri) == ["already published"] * count
    runs = [path.partition("?")[0] for _, path in first.requests if "/runs/" in path]
    for each in ("create", "log-batch", "update"):
        assert len([path for path in runs if path.endswith(f"/runs/{each}")]) == count, runs
    assert len(runs) <= 5 * count + 3, f"what is marked as the best is asked for once: {runs}"
    assert len(second.requests) <= 3, f"one search for all: {second.requests}"


def test_a_variable_without_a_value_is_not_set(
    root: Path, sqlite_uri: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_journal()
    for name in ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")
    assert outcomes(root, sqlite_uri) == ["published"]
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" not in os.environ, "MLflow takes an empty one as: check no certificate"

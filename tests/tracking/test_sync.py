"""``sync``: what is not in MLflow yet is published, once, as what it is."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.record.conftest import MakeJournal
from tests.tracking.test_publish import closed_address
from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.publish import publish
from ttt_mlflow.tracking.sync import sync


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
    assert [result.message for result in results] == ["http://user@team:5000: no route to host"] * 2
    assert asked == ["http://user:secret@team:5000"]


def test_a_journal_goes_where_it_was_meant_to_go(
    root: Path, server_uri: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was away at the run's end, and the shell of the later sync names none."""
    client = MlflowClient(server_uri)
    given = client.create_run(client.create_experiment(str(root)))
    journal = make_journal()
    journal.set_target(server_uri, given.info.run_id)
    (result,) = sync(root)
    assert result.run is not None
    assert (result.run.run_id, result.run.tracking_uri) == (given.info.run_id, server_uri)


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
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_uri)
    assert outcomes(root, None) == ["already published"]
    assert outcomes(root, server_uri) == ["published"]


def test_a_damaged_journal_does_not_stop_the_others(root: Path, sqlite_uri: str, make_journal: MakeJournal) -> None:
    damaged, _ = make_journal(), make_journal()
    (damaged.path / "metrics.json").write_text("{")
    first, second = sync(root, sqlite_uri)
    assert (first.outcome, second.outcome) == ("failed", "published")
    assert first.message is not None
    assert "metrics.json: cannot be read" in first.message


def test_an_empty_folder_and_none(tmp_path: Path) -> None:
    assert sync(tmp_path) == []
    with pytest.raises(BadInput, match="no such folder"):
        sync(tmp_path / "nowhere")

"""Runs in which nothing is measured or published end, and say why."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from mlflow import MlflowClient

from tests.record.conftest import MakeJournal
from ttt_mlflow.errors import DamagedRecord, PublishFailed
from ttt_mlflow.tracking import store
from ttt_mlflow.tracking.publish import reject_run
from ttt_mlflow.tracking.refused import end_damaged


@pytest.mark.parametrize(("status", "expected"), [("error", "FAILED"), ("killed", "KILLED")])
def test_a_run_made_by_mlflow_run_says_why_nothing_was_measured(
    sqlite_uri: str, experiment: str, status: str, expected: str
) -> None:
    client = MlflowClient(sqlite_uri)
    given = client.create_run(client.create_experiment(experiment))
    faults = "foo=1: no such parameter\nbatch=0: not allowed; batch takes a whole number"
    reject_run(given.info.run_id, sqlite_uri, faults, status)
    run = client.get_run(given.info.run_id)
    assert run.info.status == expected
    assert run.data.tags["ttt.status"] == status
    assert run.data.tags["ttt.message"] == faults
    assert run.info.run_name == ("refused: foo=1, batch=0" if status == "error" else "stopped before measuring")
    described = run.data.tags["mlflow.note.content"]
    assert described.startswith(f"**{run.info.run_name}**\n")
    assert "\n- batch=0: not allowed; batch takes a whole number" in described
    assert "ttt.kind" not in run.data.tags


@pytest.mark.parametrize(
    ("entry_point", "mode", "kind"),
    [("main", "prefill", "prefill"), ("main", "decode", "decode"), ("main", "fast", None), ("micro", None, "micro")],
)
def test_a_refused_run_is_of_the_kind_that_was_asked_for(
    sqlite_uri: str, experiment: str, entry_point: str, mode: str | None, kind: str | None
) -> None:
    client = MlflowClient(sqlite_uri)
    given = client.create_run(client.create_experiment(experiment), tags={"mlflow.project.entryPoint": entry_point})
    if mode:
        client.log_param(given.info.run_id, "mode", mode)
    reject_run(given.info.run_id, sqlite_uri, "batch=0: not allowed")
    assert client.get_run(given.info.run_id).data.tags.get("ttt.kind") == kind


def test_a_run_that_cannot_be_marked(silent_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(store.PATIENCE, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setitem(store.PATIENCE, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(PublishFailed, match=f"{silent_address} could not be marked: timed out"):
        reject_run("0" * 32, f"http://user:secret@{silent_address}", "batch=0: not allowed")


ELSEWHERE = {"host": "another", "boot_id": "b", "pid_namespace": "n", "pid": 1, "start_ticks": 1}


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ({}, "FAILED"),
        ({"ttt.process": json.dumps(ELSEWHERE), "ttt.alive_until": "past"}, "FAILED"),
        ({"ttt.process": json.dumps(ELSEWHERE), "ttt.alive_until": "future"}, "RUNNING"),
        ({"ttt.process": "[", "ttt.alive_until": "future"}, "FAILED"),
    ],
)
def test_the_run_of_a_damaged_record_ends_unless_it_may_be_written(
    sqlite_uri: str, make_journal: MakeJournal, tags: dict[str, str], status: str
) -> None:
    journal, client = make_journal(), MlflowClient(sqlite_uri)
    times = {"past": datetime.now(UTC) - timedelta(hours=1), "future": datetime.now(UTC) + timedelta(hours=1)}
    tags = {name: times[text].isoformat() if text in times else text for name, text in tags.items()}
    run_id = client.create_run("0", tags={"ttt.journal_id": journal.journal_id, **tags}).info.run_id
    end_damaged(journal, sqlite_uri, run_id, DamagedRecord("metrics.json: broken"))
    run = client.get_run(run_id)
    assert run.info.status == status
    assert ("metrics.json: broken" in run.data.tags.get("ttt.message", "")) == (status == "FAILED")

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.project import made_by_mlflow_run
from tests.proxies import LOGIN_PAGE, SILENCE, Answer, proxy
from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.begin import begin, is_for_this_process, take_over
from ttt_mlflow.tracking.publish import publish
from ttt_mlflow.tracking.takeover import Candidate

MakeJournal = Callable[..., Journal]
WORDS = ["--batch=2", "--device", "cpu"]


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def run_of(uri: str, run_id: str | None) -> Run:
    assert run_id
    return MlflowClient(uri).get_run(run_id)


def all_runs(uri: str) -> set[str]:
    client = MlflowClient(uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    return {run.info.run_id for run in client.search_runs(experiments, max_results=1000)}


def test_a_run_is_made(sqlite_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    before = datetime.now(UTC)
    begun = begin(journal, sqlite_uri, None, experiment, alive_s=600)
    run = run_of(sqlite_uri, begun.run_id)
    assert (run.info.status, run.info.run_name) == ("RUNNING", journal.run_name)
    assert run.data.tags["ttt.journal_id"] == journal.journal_id
    assert json.loads(run.data.tags["ttt.process"]) == journal.status["process"]
    until = datetime.fromisoformat(run.data.tags["ttt.alive_until"])
    assert until >= before + timedelta(seconds=599)
    assert until.utcoffset() == timedelta(0)
    target = journal.target
    assert (target["run_id"], target["experiment_id"]) == (begun.run_id, begun.experiment_id)
    assert not begun.taken_over
    assert begun.note is None
    assert publish(journal, sqlite_uri).run_id == begun.run_id


def test_it_costs_two_requests(server_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    MlflowClient(server_uri).create_experiment(experiment)
    with proxy(lambda method, path: None, server_uri) as between:
        begin(make_journal(), between.uri, None, experiment)
        asked = [(method, path.partition("?")[0].rpartition("mlflow/")[2]) for method, path in between.requests]
    assert asked == [("GET", "experiments/get-by-name"), ("POST", "runs/create")]


def test_the_run_of_mlflow_run_costs_two_requests(server_uri: str, make_journal: MakeJournal) -> None:
    candidate = Candidate.of_words(made_by_mlflow_run(MlflowClient(server_uri), "main", WORDS), ["run", *WORDS])
    journal = make_journal()
    with proxy(lambda method, path: None, server_uri) as between:
        begun = begin(journal, between.uri, candidate)
        assert len(between.requests) == 2
    assert begun.taken_over
    run = run_of(server_uri, candidate.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags["ttt.journal_id"] == journal.journal_id
    assert {"ttt.alive_until", "ttt.process"} <= set(run.data.tags)
    assert journal.target["run_id"] == candidate.run_id
    other = make_journal()
    assert begin(other, server_uri, candidate).note == (
        f"MLFLOW_RUN_ID={candidate.run_id}: left as it is (it belongs to another record); this run gets one of its own"
    )


def test_somebody_elses_run_is_left(sqlite_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    client = MlflowClient(sqlite_uri)
    training = client.create_run("0", run_name="training").info.run_id
    client.log_metric(training, "loss", 1.0)
    before = client.get_run(training).to_dictionary()
    candidate = Candidate.of_words(training, ["run", *WORDS])
    begun = begin(make_journal(), sqlite_uri, candidate, experiment)
    assert begun.run_id != training
    assert begun.note
    assert "`mlflow run` did not make it" in begun.note
    assert client.get_run(training).to_dictionary() == before
    assert is_for_this_process(sqlite_uri, candidate) == "`mlflow run` did not make it"
    assert is_for_this_process(sqlite_uri, Candidate.of_words("0" * 32, ["run"])) == "the store has no such run"


def test_a_run_is_taken_over_later(sqlite_uri: str, make_journal: MakeJournal) -> None:
    """The server was away when the run began: what `mlflow run` made is still the record's run."""
    candidate = Candidate.of_words(made_by_mlflow_run(MlflowClient(sqlite_uri), "main", WORDS), ["run", *WORDS])
    journal = make_journal()
    with proxy(lambda method, path: Answer(503)) as away, pytest.raises(PublishFailed):
        begin(journal, away.uri, candidate)
    assert take_over(journal, sqlite_uri, candidate)
    assert publish(journal, sqlite_uri).run_id == candidate.run_id


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_deleted_experiment(
    sqlite_uri: str, experiment: str, by: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(sqlite_uri)
    experiment_id = client.create_experiment(experiment)
    client.delete_experiment(experiment_id)
    if by == "id":
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    before = all_runs(sqlite_uri)
    with pytest.raises(BadInput) as refused:
        begin(make_journal(), sqlite_uri, None, experiment if by == "name" else None)
    asked = f"experiment_name={experiment}" if by == "name" else f"experiment_id={experiment_id}"
    assert str(refused.value) == (
        f"{asked}: this experiment was deleted; restore it with `mlflow experiments restore --experiment-id "
        f"{experiment_id}`, or name another with --experiment-name"
    )
    assert all_runs(sqlite_uri) == before


@pytest.mark.parametrize("kind", ["sqlite", "server"])
@pytest.mark.parametrize("unknown", ["987654", "abc", "9" * 30])
def test_an_unknown_experiment(
    unknown: str, kind: str, request: pytest.FixtureRequest, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", unknown)
    with pytest.raises(BadInput, match=f"experiment_id={unknown}: there is no such experiment; set MLFLOW_EXPERIMENT_"):
        begin(make_journal(), request.getfixturevalue(f"{kind}_uri"))


@pytest.mark.parametrize("kind", ["sqlite", "server"])
def test_a_name_that_the_store_does_not_take(
    kind: str, request: pytest.FixtureRequest, make_journal: MakeJournal
) -> None:
    with pytest.raises(BadInput, match=r"^experiment_name=x{72} … \(cut\): .*500.*; give another name$"):
        begin(make_journal(), request.getfixturevalue(f"{kind}_uri"), None, "x" * 600)


def as_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401, b"You are not authenticated", "text/plain"),
        Answer(401, as_json(detail="no token")),  # of a proxy: MLflow's exception does not tell the status
        Answer(401, as_json(error_code="UNAUTHENTICATED", message="no")),
        Answer(403, as_json(error_code="PERMISSION_DENIED", message="not yours")),
        Answer(403, LOGIN_PAGE, "text/html"),
    ],
)
def test_a_refusal(answer: Answer, make_journal: MakeJournal) -> None:
    with proxy(lambda method, path: answer) as refusing, pytest.raises(BadInput) as refused:
        begin(make_journal(), refusing.uri, None, "mine")
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"tracking_uri={refusing.uri}, experiment_name=mine: refused with {answer.status}: ")
    assert "MLFLOW_TRACKING_TOKEN" in line
    assert len(refusing.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [Answer(503), Answer(500, b"no", "text/plain"), Answer(200, LOGIN_PAGE, "text/html"), Answer(404, LOGIN_PAGE)],
)
def test_a_server_that_is_away(answer: Answer, make_journal: MakeJournal) -> None:
    journal = make_journal()
    with proxy(lambda method, path: answer) as away, pytest.raises(PublishFailed):
        begin(journal, away.uri, None, "mine")
    assert journal.target["run_id"] is None
    assert journal.target["experiment_name"] == "mine"


def test_a_run_is_made_once_although_the_answer_is_lost(
    server_uri: str, experiment: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is not repeated, and the publication finds the run that it made."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")  # a person's own
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    experiment_id = MlflowClient(server_uri).create_experiment(experiment)
    journal = make_journal()
    with proxy(lambda method, path: SILENCE if path.endswith("runs/create") else None, server_uri) as losing:
        with pytest.raises(PublishFailed):
            begin(journal, losing.uri, None, experiment)
        assert [path for _, path in losing.requests if path.endswith("runs/create")] == ["/api/2.0/mlflow/runs/create"]
    made = MlflowClient(server_uri).create_run(experiment_id, tags={"ttt.journal_id": journal.journal_id})
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    assert publish(journal, server_uri, experiment_name=experiment).run_id == made.info.run_id


def test_the_run_starts_when_the_record_does(sqlite_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    time.sleep(0.01)
    run = run_of(sqlite_uri, begin(journal, sqlite_uri, None, experiment).run_id)
    started = datetime.fromisoformat(journal.status["started_at"]).timestamp() * 1000
    assert run.info.start_time == round(started)

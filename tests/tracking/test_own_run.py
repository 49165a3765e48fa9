"""One record is one run on one server, whatever the server is called and whichever copy is published."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.catalog import metrics, series
from tests.catalog import tags as tags_of
from tests.record.conftest import SERIES, MakeJournal
from tests.tracking.faulty_proxy import FaultyProxy, faulty_proxy
from ttt_mlflow.errors import BadInput, DamagedRecord, PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking import store
from ttt_mlflow.tracking.own_run import _carries
from ttt_mlflow.tracking.publish import publish, publish_so_far
from ttt_mlflow.tracking.sync import sync

PROJECT = {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": "main"}


@pytest.fixture(scope="module")
def proxy(server_uri: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(server_uri) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch, proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path: None
    proxy.requests.clear()
    monkeypatch.setitem(store.CHECK_PATIENCE, "MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # of a busy machine


def runs_of(uri: str, journal: Journal) -> list[Run]:
    client = MlflowClient(uri)
    ids = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(ids, f"tags.`ttt.journal_id` = '{journal.journal_id}'"))


def check_each_point_once(uri: str, run_id: str, journal: Journal) -> None:
    client = MlflowClient(uri)
    for name, value in journal.metrics.items():
        assert [point.value for point in client.get_metric_history(run_id, name)] == [value]
    for name, rows in journal.series.items():
        history = client.get_metric_history(run_id, name)
        assert sorted((point.timestamp, point.step, point.value) for point in history) == sorted(rows)


def copy_of(journal: Journal, folder: str) -> Journal:
    path = journal.path.parent.parent / folder / journal.journal_id
    shutil.copytree(journal.path, path)
    return Journal.open(path)


def spellings(uri: str) -> list[str]:
    port = uri.rpartition(":")[2]
    return [f"{uri}/", f"http://localhost:{port}", f"HTTP://LOCALHOST:{port}"]


def test_a_server_under_another_name(server_uri: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    run_id = publish(journal, server_uri, experiment_name="first").run_id
    for uri in spellings(server_uri):
        (result,) = sync(journal.path, uri)
        assert result.outcome == "already published", result.message
        assert publish(journal, uri, experiment_name="another").run_id == run_id
    assert [run.info.run_id for run in runs_of(server_uri, journal)] == [run_id]
    check_each_point_once(server_uri, run_id, journal)


def test_another_server_gets_a_run_of_its_own(server_uri: str, sqlite_uri: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    here = publish(journal, server_uri, experiment_name="one").run_id
    (result,) = sync(journal.path, sqlite_uri)
    assert result.outcome == "published"
    assert result.run is not None
    assert result.run.run_id != here
    # the record knows the other store's run now, and the server is found again by the record's id
    assert publish(journal, spellings(server_uri)[1], experiment_name="elsewhere").run_id == here
    assert len(runs_of(server_uri, journal)) == len(runs_of(sqlite_uri, journal)) == 1


def test_the_run_of_somebody_else_is_left_alone(sqlite_uri: str, make_journal: MakeJournal) -> None:
    """A record from elsewhere names it."""
    client = MlflowClient(sqlite_uri)
    for tags in ({}, {"mlflow.source.type": "LOCAL"}, {**PROJECT, "ttt.journal_id": "20260101-000000-00000000"}):
        foreign = client.create_run("0", run_name="theirs", tags=tags).info.run_id
        journal = make_journal()
        journal.set_target(sqlite_uri, foreign)
        assert publish(journal, sqlite_uri).run_id != foreign
        run = client.get_run(foreign)
        assert (run.info.run_name, run.info.status, run.data.metrics) == ("theirs", "RUNNING", {})


def test_copies_of_a_killed_run_add_nothing_twice(sqlite_uri: str, make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    status = journal.status
    status["process"]["start_ticks"] = 1
    journal._write_json("status.json", status)
    copies = [journal, copy_of(journal, "host_a"), copy_of(journal, "host_b")]
    for copy in copies:
        published = publish(copy, sqlite_uri)
    assert [run.info.status for run in runs_of(sqlite_uri, journal)] == ["KILLED"]
    check_each_point_once(sqlite_uri, published.run_id, journal)
    assert len({copy.status["ended_at"] for copy in copies}) == 1


def test_an_older_copy_changes_nothing_and_a_newer_one_adds(sqlite_uri: str, make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    journal._write_json("status.json", {**journal.status, "process": {**journal.status["process"], "start_ticks": 1}})
    early, again = copy_of(journal, "early"), copy_of(journal, "again")
    publish(early, sqlite_uri)
    rows = [*SERIES["system/gpu_0_power_usage_watts"], (1_700_000_999_000, 60, 1.0)]
    journal.set_series(series({"system/gpu_0_power_usage_watts": rows}))
    journal.update_metrics(metrics({"decode_tokens_per_s": 99.0, "profile_s": 1.0}))
    journal.set_status("ok", exit_code=0)
    run_id = publish(journal, sqlite_uri).run_id
    assert publish(again, sqlite_uri).run_id == run_id
    (run,) = runs_of(sqlite_uri, journal)
    assert (run.info.status, run.data.tags["ttt.status"]) == ("FINISHED", "ok")
    assert "ttt.message" not in run.data.tags
    assert run.data.metrics["decode_tokens_per_s"] == 99.0
    history = MlflowClient(sqlite_uri).get_metric_history(run_id, "system/gpu_0_power_usage_watts")
    assert sorted((point.timestamp, point.step, point.value) for point in history) == rows


def test_a_damaged_record_makes_no_run_and_leaves_none_running(sqlite_uri: str, make_journal: MakeJournal) -> None:
    client = MlflowClient(sqlite_uri)
    fresh, begun, done = make_journal(), make_journal(), make_journal()
    run_id = client.create_run("0", tags={"ttt.journal_id": begun.journal_id}).info.run_id
    begun.set_target(sqlite_uri, run_id)
    finished = publish(done, sqlite_uri).run_id
    for journal in (fresh, begun, done):
        (journal.artifacts / "timing/steps.csv").write_text("repeat,step,ms\n0,0,9.5\n")
        with pytest.raises(DamagedRecord, match=r"timing/steps\.csv"):
            publish(journal, sqlite_uri)
    assert runs_of(sqlite_uri, fresh) == []
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["ttt.status"]) == ("FAILED", "error")
    assert "the record is damaged" in run.data.tags["ttt.message"]
    assert client.get_run(finished).info.status == "FINISHED"


def test_a_run_sends_few_requests(proxy: FaultyProxy, make_journal: MakeJournal) -> None:
    """One of 60 s with its samples, profiled, that becomes the best of its configuration."""
    publish(make_journal(), proxy.uri, experiment_name="requests")  # the first run makes the views
    journal = make_journal("running")
    systems = ["sm_clock_megahertz", "memory_clock_megahertz", "power_usage_watts", "temperature_celsius"]
    systems += ["utilization_percentage", "memory_usage_megabytes", "dram_bandwidth_percentage"]
    rows = [(1_700_000_000_000 + 500 * step, step, step / 7) for step in range(2 * 90)]
    passes = {"pass_tokens_per_s": rows[:60]}
    journal.set_series(series({f"system/gpu_0_{name}": rows for name in systems} | passes))
    journal.update_metrics(metrics({"decode_tokens_per_s": 5000.0}))
    proxy.requests.clear()
    client = MlflowClient(proxy.uri)
    experiment = client.get_experiment_by_name("requests")  # as `begin` does
    assert experiment is not None
    tags = {"ttt.journal_id": journal.journal_id}
    run_id = client.create_run(experiment.experiment_id, tags=tags).info.run_id
    journal.set_target(proxy.uri, run_id, "requests")

    publish_so_far(journal, proxy.uri)
    assert client.get_run(run_id).info.status == "RUNNING"
    proxy.requests.pop()
    sent = proxy.uploads()
    assert sorted(path.rpartition("/artifacts/")[2] for path in sent) == [
        "environment/packages.txt",
        "timing/steps.csv",
    ]
    journal.update_metrics(metrics({"profile_s": 12.0}))
    journal.update_tags(tags_of({"ttt.verdict": "valid", "ttt.kind": "decode"}))
    journal.set_status("ok", exit_code=0)
    publish(journal, proxy.uri)
    assert len(proxy.api_requests) <= 12, proxy.api_requests
    assert len(proxy.uploads()) == len(sent) + 2  # config.json and summary.md; nothing twice
    check_each_point_once(proxy.uri, run_id, journal)


@pytest.mark.parametrize("call", [pytest.param(call, marks=[pytest.mark.long] * (call % 4 > 0)) for call in range(9)])
def test_a_connection_that_breaks_in_an_answer(proxy: FaultyProxy, make_journal: MakeJournal, call: int) -> None:
    """What the client repeats or the next publication completes is there once."""
    publish(make_journal(), proxy.uri, experiment_name="broken")
    journal = make_journal()
    proxy.requests.clear()
    proxy.fault = lambda method, path: "gone" if len(proxy.requests) == call + 1 else None
    try:
        publish(journal, proxy.uri, experiment_name="broken")
    except PublishFailed:
        proxy.fault = lambda method, path: None
        publish(journal, proxy.uri)
    (run,) = runs_of(proxy.uri, journal)
    assert run.info.status == "FINISHED"
    check_each_point_once(proxy.uri, run.info.run_id, journal)


@pytest.mark.parametrize("identity", ["it's", "a b", "x' OR 'y'='y", ""])
def test_what_cannot_be_the_id_of_a_record_is_not_searched_for(identity: str) -> None:
    with pytest.raises(BadInput, match="not the id of a record"):
        _carries(identity)


def test_a_folder_is_no_record_of_another_name(tmp_path: Path, sqlite_uri: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    renamed = tmp_path / "it's"
    journal.path.rename(renamed)
    with pytest.raises(BadInput, match="not the id of a record"):
        publish(Journal.open(renamed), sqlite_uri)


def test_one_lost_answer_costs_no_publication(proxy: FaultyProxy, make_journal: MakeJournal) -> None:
    """As when a server closes an idle connection just as it is used again."""
    journal = make_journal()
    run_id = publish(journal, proxy.uri).run_id
    lost: list[str] = []

    def once(method: str, path: str) -> str | None:
        if "runs/get" in path and not lost:
            lost.append(path)
            return "gone"
        return None

    proxy.fault = once
    assert publish(journal, proxy.uri).run_id == run_id
    assert lost

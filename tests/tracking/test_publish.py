"""Publishing to a real SQLite store and a real tracking server, and what the MLflow client reads back."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param, Run, ViewType
from mlflow.exceptions import MlflowException

from tests.catalog import metrics, series, tags
from tests.record.conftest import CONFIG, SERIES, MakeJournal, start_python
from ttt_mlflow.errors import BeingPublished, PublishFailed
from ttt_mlflow.names import ARTIFACT_KERNELS
from ttt_mlflow.record.journal import NO_RECORD_OF_THE_END, Journal
from ttt_mlflow.record.kernel_table import ProfiledKernel, kernels_json
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking import run_values, store
from ttt_mlflow.tracking.artifact_stores import FolderStore, HttpStore
from ttt_mlflow.tracking.publish import PublishedRun, publish
from ttt_mlflow.tracking.store import check_tracking, clipped, resolve_tracking_uri

PROJECT = {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": "main"}  # as `mlflow run` marks its runs


def runs_in(uri: str, experiment: str) -> list[Run]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], run_view_type=ViewType.ACTIVE_ONLY))


def artifacts_of(client: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    entries = client.list_artifacts(run_id, folder)
    files = {entry.path for entry in entries if not entry.is_dir}
    return files.union(*(artifacts_of(client, run_id, entry.path) for entry in entries if entry.is_dir))


def forget(journal: Journal, *names: str) -> None:
    """The record as if these files had never been written."""
    checksums = journal.path / "checksums.jsonl"
    lines = checksums.read_text().splitlines()
    checksums.write_text("".join(f"{line}\n" for line in lines if not any(f'"{name}"' in line for name in names)))
    for name in names:
        (journal.path / name).unlink()


def check_complete(uri: str, published: PublishedRun, journal: Journal) -> None:
    """The run holds what the journal holds, once."""
    client = MlflowClient(uri)
    run = client.get_run(published.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == CONFIG.run_name
    assert run.info.end_time >= run.info.start_time
    assert {name: run.data.metrics[name] for name in journal.metrics} == journal.metrics
    assert journal.params.items() <= run.data.params.items()
    assert journal.tags.items() <= run.data.tags.items()
    assert run.data.tags["ttt.journal_id"] == journal.journal_id
    assert run.data.tags["ttt.status"] == "ok"
    assert run.data.tags["ttt.entry_point"] == "main"
    assert run.data.tags["mlflow.note.content"] == "# a run"
    assert next(iter(run.data.metrics)) == "decode_tokens_per_s"  # what MLflow's pages show first
    assert "ttt.message" not in run.data.tags
    for name in journal.metrics:
        assert len(client.get_metric_history(published.run_id, name)) == 1
    for name, rows in SERIES.items():
        history = client.get_metric_history(published.run_id, name)
        assert sorted((point.timestamp, point.step, point.value) for point in history) == rows
    assert artifacts_of(client, published.run_id) == {
        "config.json",
        "summary.md",
        "timing/steps.csv",
        "environment/packages.txt",
    }
    steps = client.download_artifacts(published.run_id, "timing/steps.csv")
    assert Path(steps).read_text() == (journal.artifacts / "timing/steps.csv").read_text()
    assert journal.published["run_id"] == published.run_id
    assert journal.published["tracking_uri"] == published.tracking_uri


# SQLite


def test_a_journal_becomes_a_run(sqlite_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    check_complete(sqlite_uri, published, journal)
    assert len(runs_in(sqlite_uri, experiment)) == 1
    assert published.run_url is None


def test_publishing_again_adds_nothing(sqlite_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    first = publish(journal, sqlite_uri, experiment_name=experiment)
    assert publish(journal, sqlite_uri, experiment_name=experiment) == first
    forget(journal, "published.json", "target.json")
    assert publish(journal, sqlite_uri, experiment_name=experiment) == first
    check_complete(sqlite_uri, first, journal)
    assert len(runs_in(sqlite_uri, experiment)) == 1


@pytest.mark.parametrize(
    ("status", "expected"),
    [("ok", "FINISHED"), ("oom", "FAILED"), ("error", "FAILED"), ("killed", "KILLED")],
)
def test_the_status_and_its_message(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal, status: str, expected: str
) -> None:
    journal = make_journal(status, "the card has 12 GB")
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    run = MlflowClient(sqlite_uri).get_run(published.run_id)
    assert run.info.status == expected
    assert run.data.tags["ttt.status"] == status
    assert run.data.tags["ttt.message"] == "the card has 12 GB"


def test_an_abandoned_journal_is_a_killed_run(sqlite_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    ended = start_python("")
    ended.communicate()
    status = journal.status
    status["process"].update(pid=ended.pid, start_ticks=1)
    journal._write_json("status.json", status)
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    run = MlflowClient(sqlite_uri).get_run(published.run_id)
    assert (run.info.status, run.data.tags["ttt.status"]) == ("KILLED", "killed")
    assert run.data.tags["ttt.message"] == NO_RECORD_OF_THE_END
    assert run.data.metrics["decode_tokens_per_s"] == 1234.5


def test_a_run_that_is_going_on_is_not_published(sqlite_uri: str, make_journal: MakeJournal) -> None:
    with pytest.raises(PublishFailed, match="has not ended"):
        publish(make_journal("running"), sqlite_uri)


def test_a_run_made_by_mlflow_run_is_filled_in(sqlite_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    """`mlflow run` has made the run, and logged the parameters as it quoted them for the shell."""
    client = MlflowClient(sqlite_uri)
    given = client.create_run(client.create_experiment(experiment), tags=PROJECT)
    client.log_batch(given.info.run_id, params=[Param("batch", "2"), Param("checkpoint", "''")])
    journal = make_journal()
    published = publish(journal, sqlite_uri, run_id=given.info.run_id)
    assert published.run_id == given.info.run_id
    assert published.experiment_id == given.info.experiment_id
    assert len(runs_in(sqlite_uri, experiment)) == 1
    run = client.get_run(published.run_id)
    assert run.data.params == {**CONFIG.as_params(), "checkpoint": "''"}
    assert run.data.tags["mlflow.source.type"] == "PROJECT"
    assert (run.info.status, run.info.run_name) == ("FINISHED", CONFIG.run_name)


def test_two_journals_are_two_runs_also_with_one_run_id(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal
) -> None:
    first, second = make_journal(), make_journal()
    given = publish(first, sqlite_uri, experiment_name=experiment)
    other = publish(second, sqlite_uri, run_id=given.run_id, experiment_name=experiment)
    assert other.run_id != given.run_id
    check_complete(sqlite_uri, given, first)
    check_complete(sqlite_uri, other, second)


@pytest.mark.parametrize("given", ["0" * 32, "deleted"])
def test_a_run_id_that_is_gone_does_not_cost_the_record(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal, given: str
) -> None:
    journal = make_journal()
    if given == "deleted":
        given = publish(journal, sqlite_uri, experiment_name=experiment).run_id
        MlflowClient(sqlite_uri).delete_run(given)
    published = publish(journal, sqlite_uri, run_id=given, experiment_name=experiment)
    assert published.run_id != given
    check_complete(sqlite_uri, published, journal)
    assert len(runs_in(sqlite_uri, experiment)) == 1


def fail_once(owner: type, method: str, call: int, before: bool) -> Callable[..., Any]:
    """The owner's ``method`` losing its ``call``-th request (``before``) or the answer to it."""
    original, calls = getattr(owner, method), iter(range(100))

    def failing(*args: Any, **kwargs: Any) -> Any:
        fails = next(calls) == call
        if fails and before:
            raise MlflowException("the request was lost")
        result = original(*args, **kwargs)
        if fails:
            raise MlflowException("the answer was lost")
        return result

    return failing


@pytest.mark.parametrize("before", [True, False], ids=["request", "answer"])
@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [
        (MlflowClient, "create_run", 0),
        (MlflowClient, "log_batch", 0),
        (MlflowClient, "log_batch", 2),
        (FolderStore, "listed", 0),
        (FolderStore, "put", 1),
        (FolderStore, "sha256", 1),
        (MlflowClient, "set_terminated", 0),
    ],
)
def test_an_interrupted_publication_is_completed(
    sqlite_uri: str,
    experiment: str,
    make_journal: MakeJournal,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    call: int,
    before: bool,
) -> None:
    journal = make_journal()
    monkeypatch.setattr(run_values, "ENTRIES_PER_CALL", 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, fail_once(owner, method, call, before))
        with pytest.raises(PublishFailed) as raised:
            publish(journal, sqlite_uri, experiment_name=experiment)
        assert "was lost" in str(raised.value)
        assert f"ttt-mlflow sync {journal.path}" in str(raised.value)
        assert journal.published == {}
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    check_complete(sqlite_uri, published, journal)
    assert len(runs_in(sqlite_uri, experiment)) == 1


def test_a_request_that_the_client_repeated_leaves_no_ghost(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MlflowClient.create_run

    def twice(*args: Any, **kwargs: Any) -> Run:
        original(*args, **kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", twice)
    journal = make_journal()
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    check_complete(sqlite_uri, published, journal)
    assert [run.info.run_id for run in runs_in(sqlite_uri, experiment)] == [published.run_id]


def test_a_publication_under_way_is_left_alone(sqlite_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    with journal.publishing(), pytest.raises(BeingPublished, match="another process is publishing") as raised:
        publish(journal, sqlite_uri, experiment_name=experiment)
    assert raised.value.exit_code == 0


def test_few_calls(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1405 points, all parameters and 10 tags go in two calls: every second sample of the GPU, and the last one."""
    original, calls = MlflowClient.log_batch, []
    journal = make_journal()
    rows = [(1_700_000_000_000 + i, i, i / 3) for i in range(2799)]
    journal.set_series(series({"system/gpu_0_sm_clock_megahertz": rows}))

    def counted(client: MlflowClient, run_id: str, metrics: Any, params: Any, tags: Any) -> Any:
        calls.append((len(metrics), len(params), len(tags)))
        return original(client, run_id, metrics, params, tags)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    params = len(journal.params)
    assert calls == [(1000 - params, params, 0), (1405 - (1000 - params), 0, 10)]
    history = MlflowClient(sqlite_uri).get_metric_history(published.run_id, "system/gpu_0_sm_clock_megahertz")
    assert sorted((point.timestamp, point.step, point.value) for point in history) == rows[::2]


def test_what_is_too_long_or_unprintable_for_a_tag_is_cut(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal
) -> None:
    message = "CUDA error\0\udcff " + "x" * 10_000
    journal = make_journal("error", message)
    journal.set_description("d" * 9000)
    journal.update_params({"checkpoint": "c" * 7000})
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    client = MlflowClient(sqlite_uri)
    run = client.get_run(published.run_id)
    assert run.data.tags["ttt.message"].startswith("CUDA error\\0? xxx")
    assert run.data.tags["ttt.message"].endswith("… (cut)")
    assert len(run.data.tags["mlflow.note.content"]) == 8000
    assert len(run.data.params["checkpoint"]) == 6000
    assert journal.status["message"] == message.replace("\udcff", "?")  # half a character, which no file can hold
    summary = client.download_artifacts(published.run_id, "summary.md")
    assert Path(summary).read_text() == "d" * 9000


@pytest.mark.parametrize("given", ["name", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "none"])
def test_the_experiment(
    sqlite_uri: str,
    experiment: str,
    make_journal: MakeJournal,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
) -> None:
    client = MlflowClient(sqlite_uri)
    expected = client.create_experiment(experiment) if given != "none" else ""
    if given == "MLFLOW_EXPERIMENT_NAME":
        monkeypatch.setenv(given, experiment)
    if given == "MLFLOW_EXPERIMENT_ID":
        monkeypatch.setenv(given, expected)
    name = experiment if given == "name" else None
    published = publish(make_journal(), sqlite_uri, experiment_name=name)
    if given == "none":
        assert client.get_experiment(published.experiment_id).name == store.DEFAULT_EXPERIMENT
    else:
        assert published.experiment_id == expected


def of_version_0_1(journal: Journal, uri: str) -> Journal:
    """Version 0.1 noted no experiment when none was given."""
    journal.set_target(uri)
    return journal


def test_an_older_record_is_completed_where_it_was_begun(sqlite_uri: str, make_journal: MakeJournal) -> None:
    begun, new = (of_version_0_1(make_journal(), sqlite_uri) for _ in range(2))
    client = MlflowClient(sqlite_uri)
    there = client.create_run("0", tags={"ttt.journal_id": begun.journal_id})
    published = publish(begun, sqlite_uri)
    assert (published.run_id, published.experiment_id) == (there.info.run_id, "0")
    assert client.get_experiment(publish(new, sqlite_uri).experiment_id).name == store.DEFAULT_EXPERIMENT


def test_the_environment_of_a_later_sync_names_the_experiment(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make_journal()
    with pytest.raises(PublishFailed):
        publish(journal, closed_address())
    assert journal.target["experiment_name"] == store.DEFAULT_EXPERIMENT
    expected = MlflowClient(sqlite_uri).create_experiment(experiment)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", expected)
    assert publish(journal, sqlite_uri).experiment_id == expected


@pytest.mark.parametrize(("mode", "first"), [("decode", "decode"), ("prefill", "prefill")])
def test_the_headline_and_its_interval_are_logged_first(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal, mode: str, first: str
) -> None:
    journal = make_journal()
    journal.set_used({**journal.settings, "mode": mode})
    ends = [f"{first}_tokens_per_s{end}" for end in ("", "_ci_low", "_ci_high")]
    journal.update_metrics(metrics(dict.fromkeys(reversed(ends), 5.0)))
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    assert list(MlflowClient(sqlite_uri).get_run(published.run_id).data.metrics)[:3] == ends


def test_a_micro_benchmarks_kernels_are_logged_first(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal
) -> None:
    journal = make_journal()
    journal._write_json("metrics.json", {"imports_s": 1.0})
    journal.set_series(series({"kernel_us_p20/a": [(1, 8, 1.0)], "kernel_us/a": [(1, 8, 2.0)]}))
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    assert next(iter(MlflowClient(sqlite_uri).get_run(published.run_id).data.metrics)) == "kernel_us/a"


def test_git_tags_of_mlflow_run_stand(sqlite_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    client, commit = MlflowClient(sqlite_uri), "mlflow.source.git.commit"
    given = client.create_run(client.create_experiment(experiment), tags={**PROJECT, commit: "the project's"})
    journal = make_journal()
    journal.update_tags(tags({commit: "the package's", "mlflow.source.git.branch": "main"}))
    found = client.get_run(publish(journal, sqlite_uri, run_id=given.info.run_id).run_id).data.tags
    assert (found[commit], found["mlflow.source.git.branch"]) == ("the project's", "main")
    fresh = make_journal()
    fresh.update_tags(tags({commit: "the package's"}))
    published = publish(fresh, sqlite_uri, experiment_name=experiment)
    assert client.get_run(published.run_id).data.tags[commit] == "the package's"


def test_the_table_of_kernels_is_found_as_mlflows_own(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)  # MLflow looks there for the tables
    journal, client = make_journal(), MlflowClient(sqlite_uri)
    journal.write_artifact(ARTIFACT_KERNELS, kernels_json([ProfiledKernel("gemm", None, 2, 1 / 3, 100.0)]))
    published = publish(journal, sqlite_uri, experiment_name=experiment)
    table = client.load_table(published.experiment_id, ARTIFACT_KERNELS.path, [published.run_id])
    assert table.to_dict("records") == [
        {"kernel": "gemm", "part": "", "calls": 2, "us_per_step": 0.333333, "share_pct": 100}
    ]
    client.log_table(published.run_id, {"a": [1]}, "other.json")
    publish(journal, sqlite_uri)
    listed = json.loads(client.get_run(published.run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": path, "type": "table"} for path in (ARTIFACT_KERNELS.path, "other.json")]


def test_the_experiment_that_was_meant_is_remembered(
    sqlite_uri: str, experiment: str, make_journal: MakeJournal
) -> None:
    journal = make_journal()
    with pytest.raises(PublishFailed):
        publish(journal, closed_address(), experiment_name=experiment)
    publish(journal, sqlite_uri)
    assert len(runs_in(sqlite_uri, experiment)) == 1


QUIET_PROGRAM = """
import sys
from pathlib import Path
from ttt_mlflow.names import ARTIFACT_LOG
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking import publish, store

assert "mlflow" not in sys.modules  # it takes seconds to import
journal = Journal.create(Path("runs"), {"model_name": "ttt-125m"})
journal.write_artifact(ARTIFACT_LOG, "text")
journal.set_status("ok")
publish.publish(journal, store.resolve_tracking_uri(None))
"""


def test_a_fresh_default_store_is_made_without_a_word(tmp_path: Path) -> None:
    program = start_python(QUIET_PROGRAM)
    assert program.communicate() == ("", "")
    assert program.returncode == 0
    (run,) = runs_in(f"sqlite:///{tmp_path}/mlflow.db", store.DEFAULT_EXPERIMENT)
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri == f"{tmp_path}/mlruns/{run.info.experiment_id}/{run.info.run_id}/artifacts"


# A tracking server


def test_a_server_takes_the_run_and_its_artifacts(
    server_uri: str, experiment: str, make_journal: MakeJournal, capfd: pytest.CaptureFixture[str]
) -> None:
    journal = make_journal()
    published = publish(journal, server_uri, experiment_name=experiment)
    assert capfd.readouterr() == ("", "")
    check_complete(server_uri, published, journal)
    run = MlflowClient(server_uri).get_run(published.run_id)
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert published.run_url == f"{server_uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def test_a_publication_to_a_server_is_completed(server_uri: str, experiment: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpStore, "put", fail_once(HttpStore, "put", 0, before=False))
        with pytest.raises(PublishFailed):
            publish(journal, server_uri, experiment_name=experiment)
    published = publish(journal, server_uri, experiment_name=experiment)
    check_complete(server_uri, published, journal)
    assert len(runs_in(server_uri, experiment)) == 1


# No tracking server


def closed_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def check_failure(journal: Journal, uri: str, *expected: str) -> None:
    with pytest.raises(PublishFailed) as raised:
        publish(journal, uri)
    message = str(raised.value)
    for part in (uri, str(journal.path), "ttt-mlflow sync", *expected):
        assert part in message
    assert "\n" not in message
    assert journal.published == {}
    assert journal.metrics["decode_tokens_per_s"] == 1234.5


def test_an_unreachable_server_costs_nothing_but_the_publication(
    make_journal: MakeJournal, capfd: pytest.CaptureFixture[str]
) -> None:
    check_failure(make_journal(), closed_address(), "Connection refused")
    assert capfd.readouterr() == ("", "")


def test_a_silent_server_is_given_up(
    make_journal: MakeJournal, silent_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(store.CHECK_PATIENCE, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    check_failure(make_journal(), f"http://{silent_address}", "timed out")


def test_a_server_that_falls_silent_is_given_up(
    make_journal: MakeJournal, silent_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered the check, and nothing after it: the requests' own limits end the wait."""
    monkeypatch.setattr(store, "check_tracking", lambda uri: None)
    monkeypatch.setitem(store.PATIENCE, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setitem(store.PATIENCE, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    check_failure(make_journal(), f"http://{silent_address}", "timed out")


def test_the_limits_end_within_a_minute() -> None:
    limits = store.PATIENCE
    attempts = int(limits["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) + 1
    pauses = sum(2 * 2**attempt for attempt in range(attempts - 1))  # MLflow's back-off
    assert attempts * int(limits["MLFLOW_HTTP_REQUEST_TIMEOUT"]) + pauses <= 60


@pytest.mark.parametrize("scheme", ["postgresql", "mysql+pymysql"])
def test_a_database_that_is_away(make_journal: MakeJournal, scheme: str) -> None:
    address = closed_address().removeprefix("http://")
    reason = check_tracking(f"{scheme}://{address}/mlflow")
    assert reason is not None
    assert address in reason
    assert "Connection refused" in reason


def test_a_database_that_is_there(silent_address: str) -> None:
    assert check_tracking(f"postgresql://user:secret@{silent_address}/mlflow") is None


def test_passwords_are_not_written_down(make_journal: MakeJournal) -> None:
    journal = make_journal()
    uri = closed_address().replace("http://", "http://user:secret@")
    with pytest.raises(PublishFailed) as raised:
        publish(journal, uri)
    assert "secret" not in str(raised.value)
    assert all(b"secret" not in path.read_bytes() for path in journal.path.rglob("*") if path.is_file())
    assert without_secrets("postgresql+psycopg2://me:p%40ss:w@db:5432/x") == "postgresql+psycopg2://me@db:5432/x"
    assert without_secrets("sqlite:////home/a:b@c/mlflow.db") == "sqlite:////home/a:b@c/mlflow.db"


def test_a_path_that_is_no_database(tmp_path: Path, make_journal: MakeJournal) -> None:
    (tmp_path / "file").write_text("this is not a database, it is a text")
    for uri, reason in [
        (f"sqlite:///{tmp_path}/file", "not an SQLite database"),
        (f"sqlite:///{tmp_path}/file/mlflow.db", "not a writable folder"),
        (f"sqlite:///{tmp_path}", "is a folder: use a file in it"),
        (f"{tmp_path}/mlruns", "sqlite:///"),
    ]:
        check_failure(make_journal(), uri, reason)


def test_places_that_can_be_published_to(tmp_path: Path, server_uri: str) -> None:
    assert check_tracking(f"sqlite:///{tmp_path}/new/folder/mlflow.db") is None
    assert not (tmp_path / "new").exists()
    assert check_tracking(server_uri) is None
    assert check_tracking(f"{server_uri}/") is None


def test_another_server_is_not_an_mlflow_server(server_uri: str) -> None:
    reason = check_tracking(f"{server_uri}/static-files")
    assert reason is not None
    assert "does not answer as an MLflow server" in reason


# Addresses and text


def test_the_tracking_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_tracking_uri("sqlite:///below/x.db") == f"sqlite:///{tmp_path}/below/x.db"
    assert resolve_tracking_uri("sqlite:////abs/x.db") == "sqlite:////abs/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")  # as `mlflow run` passes it on
    assert resolve_tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert resolve_tracking_uri(None) == "http://team:5000"
    assert resolve_tracking_uri("http://other:1") == "http://other:1"


def test_the_users_own_settings_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    with store.settings(store.PATIENCE):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "600"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "600"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("length", [0, 19, 20, 21, 1000])
def test_clipped(length: int) -> None:
    text = "x" * length
    assert clipped(text, 20) == (text if length <= 20 else "x" * 12 + " … (cut)")

"""Runs that a store shows as RUNNING: those of ours on which nobody works are ended, all others stay as they are."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Param, Run
from mlflow.exceptions import INTERNAL_ERROR, MlflowException

from tests.record.conftest import MakeJournal
from ttt_mlflow.record.process import Host, this_process
from ttt_mlflow.tracking import publish as publishing
from ttt_mlflow.tracking import stuck_runs
from ttt_mlflow.tracking.publish import How, milliseconds, publish
from ttt_mlflow.tracking.query import open_store
from ttt_mlflow.tracking.stuck_runs import DECLARED, Here, RunFacts, end_run, find_stuck, in_words, why_stuck

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
BOOTED = NOW - timedelta(days=10)
ALIVE = {100: 5_000, 200: 77}  # pid -> start time of this host's processes
HOST = Host("node-1", "boot-now", "pid:[1]", ALIVE.get)
OUR_COMMIT = "c" * 40
HERE = Here(NOW, HOST, BOOTED, is_our_commit=lambda commit: commit == OUR_COMMIT)
ID = "20261128-101500-1a2b3c4d"
LIVING = {"host": "node-1", "boot_id": "boot-now", "pid_namespace": "pid:[1]", "pid": 100, "start_ticks": 5_000}
GONE = {**LIVING, "pid": 300}
PROJECT = {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": "main", "mlflow.source.name": "file:///here"}
PARAMS = dict.fromkeys(DECLARED["main"], "1")


def in_future(**time: float) -> str:
    return (NOW + timedelta(**time)).isoformat()


def run_with(process: object = None, alive_until: str | None = None, **facts: Any) -> RunFacts:
    tags = {"ttt.journal_id": ID}
    if process is not None:
        tags["ttt.process"] = process if isinstance(process, str) else json.dumps(process)
    if alive_until is not None:
        tags["ttt.alive_until"] = alive_until
    made = RunFacts("f" * 32, "a run", "RUNNING", NOW - timedelta(minutes=5), tags, {}, False)
    return replace(made, **facts)


OF_NOBODY = json.dumps({**this_process(), "start_ticks": 1})
UNBEGUN = run_with(tags=PROJECT, params=PARAMS, started_at=NOW - timedelta(hours=25))


# The decision


def test_a_process_that_is_gone() -> None:
    assert why_stuck(run_with(GONE, in_future(hours=9)), HERE) == "its process 300 on node-1 is gone"
    assert why_stuck(run_with({**LIVING, "start_ticks": 4_999}), HERE) == "its process 100 on node-1 is gone"


def test_a_process_of_an_earlier_boot_is_gone() -> None:
    before = {**LIVING, "boot_id": "boot-before"}
    earlier = BOOTED - timedelta(seconds=1)
    assert why_stuck(run_with(before, started_at=earlier), HERE) == "its process 100 on node-1 is gone"
    # another host of the same name
    assert why_stuck(run_with(before, started_at=BOOTED + timedelta(seconds=1)), HERE) is None
    assert why_stuck(run_with({**before, "host": "node-2"}, started_at=earlier), HERE) is None
    localhost = replace(HERE, host=replace(HOST, name="localhost"))
    assert why_stuck(run_with({**before, "host": "localhost"}, started_at=earlier), localhost) is None


@pytest.mark.parametrize("other", [{"host": "node-2"}, {"pid_namespace": "pid:[2]"}])
def test_a_process_that_is_not_seen_from_here(other: dict[str, str]) -> None:
    """Of another virtual machine of the same snapshot, of another container."""
    unseen = {**GONE, **other}
    assert why_stuck(run_with(unseen), HERE) is None
    assert why_stuck(run_with(unseen, in_future(minutes=-60)), HERE) is None
    assert why_stuck(run_with(unseen, in_future(minutes=-61)), HERE) == "it was to end 61 min ago at the latest"


def test_a_living_process_is_left_however_late_it_is() -> None:
    assert why_stuck(run_with(LIVING, in_future(days=-30)), HERE) is None


@pytest.mark.parametrize("until", ["", "soon", "2026-13-01", "9" * 5000])
def test_a_time_that_is_none(until: str) -> None:
    assert why_stuck(run_with("{", until), HERE) is None


def test_what_mlflow_run_left_behind() -> None:
    reason = "`mlflow run` made it 25 h ago, and no measurement began in it"
    assert why_stuck(UNBEGUN, HERE) == reason
    assert why_stuck(replace(UNBEGUN, params={**PARAMS, "inner_net": "mlp_2_dual"}), HERE) == reason
    for entry_point in ("micro", "compare"):
        tags = {**PROJECT, "mlflow.project.entryPoint": entry_point}
        params = dict.fromkeys(DECLARED[entry_point], "1")
        assert why_stuck(replace(UNBEGUN, tags=tags, params=params), HERE) == reason


NO_PARAMETERS = replace(UNBEGUN, tags={**PROJECT, "mlflow.source.git.commit": OUR_COMMIT}, params={})


def test_what_mlflow_run_left_behind_before_it_wrote_the_parameters() -> None:
    assert why_stuck(NO_PARAMETERS, HERE) == "`mlflow run` made it 25 h ago, and no measurement began in it"


@pytest.mark.parametrize(
    "tags",
    [
        {"mlflow.source.git.commit": "d" * 40},
        {"mlflow.source.git.commit": ""},
        {"mlflow.source.name": "file:///here#another/project"},
        {"mlflow.source.name": ""},
        {"mlflow.project.entryPoint": "train"},
        {"mlflow.source.type": "LOCAL"},
        {"ttt.kind": "decode"},
    ],
)
def test_a_run_without_parameters_that_may_be_anothers_is_left(tags: dict[str, str]) -> None:
    assert why_stuck(replace(NO_PARAMETERS, tags={**NO_PARAMETERS.tags, **tags}), HERE) is None


def without(values: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in values.items() if key != name}


NOT_OURS: dict[str, Callable[[RunFacts], RunFacts]] = {
    "a local script": lambda run: replace(run, tags={**run.tags, "mlflow.source.type": "LOCAL"}),
    "no source type": lambda run: replace(run, tags=without(run.tags, "mlflow.source.type")),
    "another entry point": lambda run: replace(run, tags={**run.tags, "mlflow.project.entryPoint": "train"}),
    "no entry point": lambda run: replace(run, tags=without(run.tags, "mlflow.project.entryPoint")),
    "another project": lambda run: replace(run, params={"alpha": "0.1", "batch": "8"}),
    "a parameter less": lambda run: replace(run, params=without(run.params, "retry_invalid")),
    "no parameters and no commit": lambda run: replace(run, params={}),
    "a metric": lambda run: replace(run, has_metrics=True),
    "a tag of ours": lambda run: replace(run, tags={**run.tags, "ttt.kind": "decode"}),
    "younger": lambda run: replace(run, started_at=NOW - timedelta(hours=23, minutes=59)),
    "of the future": lambda run: replace(run, started_at=NOW + timedelta(hours=25)),
    "without a time": lambda run: replace(run, started_at=None),
    "ended": lambda run: replace(run, status="FINISHED"),
}


@pytest.mark.parametrize("change", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_what_is_not_quite_that_is_left(change: Callable[[RunFacts], RunFacts]) -> None:
    assert why_stuck(change(UNBEGUN), HERE) is None


@given(changes=st.lists(st.sampled_from(list(NOT_OURS)), min_size=1, max_size=5))
def test_no_run_that_is_not_ours_is_ended(changes: list[str]) -> None:
    run = UNBEGUN
    for change in changes:
        run = NOT_OURS[change](run)
    # a later change may take an earlier one back; the age is one value, the tags are another
    if run != UNBEGUN:
        assert why_stuck(run, HERE) is None


TIMES = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)).map(
    lambda time: time.replace(tzinfo=UTC)
)
TEXTS = st.text(max_size=20) | TIMES.map(datetime.isoformat) | st.sampled_from([json.dumps(GONE), "main", "PROJECT"])
TAGS = st.dictionaries(
    st.sampled_from([*PROJECT, "ttt.alive_until", "ttt.status", "ttt.kind", "mlflow.note.content", "team"]), TEXTS
)


@given(tags=TAGS, started_at=TIMES | st.none(), has_metrics=st.booleans(), now=TIMES, pid=st.sampled_from([100, 200]))
def test_no_living_run_is_ended(
    tags: dict[str, str], started_at: datetime | None, has_metrics: bool, now: datetime, pid: int
) -> None:
    """Whatever else the store says of it, whatever time it is."""
    living = {**LIVING, "pid": pid, "start_ticks": ALIVE[pid]}
    tags = {**tags, "ttt.journal_id": ID, "ttt.process": json.dumps(living)}
    run = RunFacts("f" * 32, "a run", "RUNNING", started_at, tags, PARAMS, has_metrics)
    assert why_stuck(run, Here(now, HOST, BOOTED, timedelta(0))) is None


@given(
    process=st.fixed_dictionaries(
        {
            "host": st.sampled_from(["node-1", "node-2", "localhost"]),
            "boot_id": st.sampled_from(["boot-now", "boot-before"]),
            "pid_namespace": st.sampled_from(["pid:[1]", "pid:[2]"]),
            "pid": st.sampled_from([100, 300]),
            "start_ticks": st.sampled_from([5_000, 1]),
        }
    ),
    hours=st.floats(-1, 1000),
    started=TIMES,
)
def test_a_run_within_its_time_is_ended_only_if_this_host_knows(
    process: dict[str, Any], hours: float, started: datetime
) -> None:
    reason = why_stuck(run_with(process, in_future(hours=hours), started_at=started), HERE)
    same_boot = process["boot_id"] == "boot-now" and process["pid_namespace"] == "pid:[1]"
    died = same_boot and ALIVE.get(process["pid"]) != process["start_ticks"]
    rebooted = process["boot_id"] == "boot-before" and started < BOOTED
    assert (reason is not None) == (process["host"] == "node-1" and (died or rebooted))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from([*LIVING, "x"]), values),
    max_leaves=10,
)
ANYTHING = JSON.map(json.dumps) | st.text(max_size=30)


@given(
    tags=TAGS,
    journal_id=st.text(max_size=30) | st.just(ID),
    process=ANYTHING | st.dictionaries(st.sampled_from([*LIVING]), JSON).map(lambda some: json.dumps({**GONE, **some})),
    until=ANYTHING,
    started_at=TIMES | st.none(),
)
def test_whatever_stands_in_the_tags_there_is_an_answer(
    tags: dict[str, str], journal_id: str, process: str, until: str, started_at: datetime | None
) -> None:
    tags = {**tags, "ttt.journal_id": journal_id, "ttt.process": process, "ttt.alive_until": until}
    reason = why_stuck(run_with(tags=tags, params=PARAMS, started_at=started_at), HERE)
    assert reason is None or (journal_id == ID and ("is gone" in reason or "it was to end" in reason))


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ({"seconds": -5}, "0 s"),
        ({"seconds": 45.9}, "45 s"),
        ({"minutes": 12}, "12 min"),
        ({"hours": 26}, "26 h"),
        ({"days": 9}, "9 days"),
    ],
)
def test_a_length_of_time_in_words(time: dict[str, float], words: str) -> None:
    assert in_words(timedelta(**time)) == words


# On real stores


class Place:
    """One experiment of a real store."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name, self.client = uri, name, MlflowClient(uri)
        self.experiment_id = self.client.create_experiment(name)

    def run(
        self, tags: dict[str, str] | None = None, params: Mapping[str, str] | None = None, age: timedelta = timedelta(0)
    ) -> str:
        start = int((datetime.now(UTC) - age).timestamp() * 1000)
        run_id = self.client.create_run(self.experiment_id, start_time=start, tags=tags or {}).info.run_id
        if params:
            self.client.log_batch(run_id, params=[Param(*one) for one in params.items()])
        return str(run_id)

    def gone(self, journal_id: str = ID) -> str:
        """A run of a process that is gone."""
        return self.run(
            {"ttt.journal_id": journal_id, "ttt.process": OF_NOBODY, "ttt.alive_until": in_future(days=9999)}
        )

    def content(self, run_id: str) -> object:
        return self.client.get_run(run_id).to_dictionary()

    def clean(self, here: Here | None = None) -> list[str]:
        """End what is stuck; the outcomes."""
        here = here or Here.and_now()
        with open_store(self.uri) as store:
            found = find_stuck(store, [self.experiment_id], here, lambda done: None)
            return [end_run(store, run.run_id, here).outcome for run, _ in found]


@pytest.fixture(params=["sqlite_uri", "server_uri"])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.getfixturevalue(request.param), request.node.name)


def test_a_stuck_run_is_ended_with_the_reason(place: Place) -> None:
    gone, unbegun = place.gone(), place.run(PROJECT, PARAMS | {"mode": "prefill"}, timedelta(hours=25))
    assert place.clean() == ["ended", "ended"]
    for run_id, reason in ((gone, "is gone"), (unbegun, "`mlflow run` made it 25 h ago")):
        run = place.client.get_run(run_id)
        assert run.info.status == "KILLED"
        assert run.info.end_time > run.info.start_time
        assert run.data.tags["ttt.status"] == "killed"
        assert run.data.tags["ttt.message"].startswith("nobody works on this run any more: ")
        assert reason in run.data.tags["ttt.message"]
        assert run.data.tags["mlflow.note.content"] == f"**killed**\n\n{run.data.tags['ttt.message']}"
    assert place.client.get_run(unbegun).data.tags["ttt.kind"] == "prefill"
    assert place.clean() == []


def test_a_description_stays(place: Place) -> None:
    gone = place.gone()
    place.client.set_tag(gone, "mlflow.note.content", "mine")
    assert place.clean() == ["ended"]
    assert place.client.get_run(gone).data.tags["mlflow.note.content"] == "mine"


def test_all_others_stay_byte_for_byte(place: Place) -> None:
    old, day = timedelta(days=40), timedelta(hours=25)
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    elsewhere = {**this_process(), "host": "another", "boot_id": "another"}
    training = place.run({"mlflow.source.type": "LOCAL"}, {"lr": "0.1"}, old)
    place.client.log_metric(training, "loss", 0.5)
    measured = place.run(PROJECT, PARAMS, day)
    place.client.log_metric(measured, "decode_tokens_per_s", 1.0)
    others = [
        training,
        measured,
        place.run({**PROJECT, "mlflow.project.entryPoint": "train"}, {"alpha": "1"}, old),
        place.run(PROJECT, {"alpha": "1"}, old),
        place.run(PROJECT, without(PARAMS, "genlen"), old),
        place.run(PROJECT, PARAMS, timedelta(hours=23)),
        place.run({"ttt.journal_id": ID, "ttt.process": json.dumps(this_process()), "ttt.alive_until": "2020-01-01"}),
        place.run({"ttt.journal_id": ID, "ttt.process": json.dumps(elsewhere), "ttt.alive_until": soon}, age=old),
        place.run({"ttt.journal_id": ID}, age=old),
    ]
    ended = place.run({"ttt.journal_id": ID, "ttt.process": json.dumps({**this_process(), "start_ticks": 1})})
    place.client.set_terminated(ended, "FAILED", 1)
    others.append(ended)
    deleted = place.gone()
    place.client.delete_run(deleted)
    others.append(deleted)
    before = [place.content(run_id) for run_id in others]
    assert place.clean() == []
    assert [place.content(run_id) for run_id in others] == before


def test_more_runs_than_a_page_has(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck_runs, "PAGE", 2)
    for _ in range(5):
        place.gone()
        place.run()
    assert place.clean() == ["ended"] * 5


def test_a_run_that_ends_meanwhile_is_not_overwritten(place: Place) -> None:
    run_id, deleted = place.gone(), place.gone()
    here = Here.and_now()
    with open_store(place.uri) as store:
        assert len(find_stuck(store, [place.experiment_id], here, lambda done: None)) == 2
        place.client.set_terminated(run_id, "FINISHED")
        place.client.delete_run(deleted)
        before = place.content(run_id), place.content(deleted)
        found = end_run(store, run_id, here)
        assert (found.outcome, found.why) == ("left", "it has ended by itself (FINISHED)")
        assert end_run(store, deleted, here).why == "it was deleted"
        assert end_run(store, "0" * 32, here).why == "it was deleted"
    assert (place.content(run_id), place.content(deleted)) == before


def test_a_run_that_is_published_at_that_moment_keeps_its_tags(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record's process writes the status, the last of all, just after ours."""
    run_id, here = place.gone(), Here.and_now()
    with open_store(place.uri) as store:
        ours = store.client.set_terminated

        def both(run_id: str, status: str) -> None:
            ours(run_id, status)
            place.client.set_tag(run_id, "ttt.status", "ok")
            place.client.set_terminated(run_id, "FINISHED")

        monkeypatch.setattr(store.client, "set_terminated", both)
        assert end_run(store, run_id, here).outcome == "left"
    run = place.client.get_run(run_id)
    assert (run.info.status, run.data.tags["ttt.status"]) == ("FINISHED", "ok")
    assert "ttt.message" not in run.data.tags


@pytest.mark.parametrize("call", ["set_terminated", "log_batch"])
def test_a_record_that_is_published_at_that_moment_wins(
    call: str, place: Place, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our request is under way while the whole record is published, and arrives after it."""
    journal, here = make_journal("ok"), Here.and_now()
    run_id = place.gone(journal.journal_id)
    with open_store(place.uri) as store:
        ours = getattr(store.client, call)

        def late(*args: Any, **kwargs: Any) -> None:
            publish(journal, place.uri, run_id, place.name)
            ours(*args, **kwargs)

        monkeypatch.setattr(store.client, call, late)
        outcome = end_run(store, run_id, here)
    assert (outcome.outcome, outcome.why) == ("left", "it was published just now")
    run = place.client.get_run(run_id)
    assert (run.info.status, run.data.tags["ttt.status"]) == ("FINISHED", "ok")
    assert run.info.end_time == milliseconds(journal.status["ended_at"])
    assert "ttt.message" not in run.data.tags


@pytest.mark.parametrize("call", ["set_terminated", "log_batch"])
def test_a_run_that_others_end_while_it_is_published(
    call: str, place: Place, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read it when its process was gone and nobody had begun to publish its record."""
    journal = make_journal("ok")
    monkeypatch.setattr(publishing, "has_ended", lambda process: True)
    run_id = place.gone(journal.journal_id)
    ours = getattr(MlflowClient, call)
    ended: list[str] = []

    def with_others(client: MlflowClient, *args: Any, **kwargs: Any) -> None:
        ours(client, *args, **kwargs)
        if not ended:
            ended.append(run_id)
            place.client.set_terminated(run_id, "KILLED")
            place.client.set_tag(run_id, "ttt.status", "killed")
            place.client.set_tag(run_id, "ttt.message", "nobody works on this run any more")

    monkeypatch.setattr(MlflowClient, call, with_others)
    publish(journal, place.uri, run_id, place.name)
    run = place.client.get_run(run_id)
    assert ended
    assert (run.info.status, run.data.tags["ttt.status"]) == ("FINISHED", "ok")
    assert run.info.end_time == milliseconds(journal.status["ended_at"])
    assert "ttt.message" not in run.data.tags


def test_an_answer_that_was_long_under_way_is_asked_for_again(
    place: Place, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the answer was under way, the whole record was published."""
    journal, here = make_journal("ok"), Here.and_now()
    run_id = place.gone(journal.journal_id)
    monkeypatch.setattr(stuck_runs, "QUICK_S", 0.0)  # every answer counts as slow
    with open_store(place.uri) as store:
        ours = store.client.get_run
        read: list[Run] = []

        def slow(run_id: str) -> Run:
            read.append(ours(run_id))
            if len(read) == 1:
                publish(journal, place.uri, run_id, place.name)
            return read[-1]

        monkeypatch.setattr(store.client, "get_run", slow)
        assert end_run(store, run_id, here).why == "it has ended by itself (FINISHED)"
    assert [run.info.status for run in read] == ["RUNNING", "FINISHED", "FINISHED"]


@pytest.mark.parametrize("was_interrupted", [False, True])
def test_marks_of_a_failed_run_that_is_published_at_that_moment(
    was_interrupted: bool, place: Place, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it failed does not say how. Only if its values had arrived earlier are they known here."""
    journal, here = make_journal("oom", "too large"), Here.and_now()
    run_id = place.gone(journal.journal_id)
    if was_interrupted:
        publish(journal, place.uri, run_id, place.name)
        place.client.update_run(run_id, "RUNNING")
        place.client.set_tag(run_id, "ttt.process", OF_NOBODY)
    with open_store(place.uri) as store:
        ours = store.client.log_batch

        def late(*args: Any, **kwargs: Any) -> None:
            if kwargs["tags"][0].value == "killed":
                publish(journal, place.uri, run_id, place.name)
            ours(*args, **kwargs)

        monkeypatch.setattr(store.client, "log_batch", late)
        outcome = end_run(store, run_id, here)
    assert outcome.outcome == "left"
    assert ("sync --verify" in outcome.why) is not was_interrupted
    if not was_interrupted:
        publish(journal, place.uri, how=How(verify=True))
    run = place.client.get_run(run_id)
    assert (run.info.status, run.data.tags["ttt.status"], run.data.tags["ttt.message"]) == (
        "FAILED",
        "oom",
        "too large",
    )


@pytest.mark.parametrize("lost", ["set_terminated", "get_run"])
def test_a_run_is_given_back_although_an_answer_is_lost(
    lost: str, place: Place, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is published just before our request arrives, and then we hear nothing of it."""
    journal, here = make_journal("ok"), Here.and_now()
    run_id = place.gone(journal.journal_id)
    monkeypatch.setattr(stuck_runs.time, "sleep", lambda seconds: None)
    with open_store(place.uri) as store:
        end, read, failed = store.client.set_terminated, store.client.get_run, [False]

        def late(run_id: str, *ended: Any) -> None:
            if ended == ("KILLED",):
                publish(journal, place.uri, run_id, place.name)
            end(run_id, *ended)
            if lost == "set_terminated":
                lose()

        def reads(run_id: str) -> Run:
            run = read(run_id)
            if lost == "get_run" and "ttt.recorded_until" in run.data.tags:
                lose()
            return run

        def lose() -> None:
            if not failed[0]:
                failed[0] = True
                raise MlflowException("the connection was closed", INTERNAL_ERROR)

        monkeypatch.setattr(store.client, "set_terminated", late)
        monkeypatch.setattr(store.client, "get_run", reads)
        assert end_run(store, run_id, here).outcome == "left"
    assert failed == [True]
    run = place.client.get_run(run_id)
    assert (run.info.status, run.data.tags["ttt.status"]) == ("FINISHED", "ok")
    assert run.info.end_time == milliseconds(journal.status["ended_at"])


def test_a_request_whose_answer_is_lost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent again only after the run was read again."""
    run_id, here = place.gone(), Here.and_now()
    monkeypatch.setattr(stuck_runs.time, "sleep", lambda seconds: None)
    with open_store(place.uri) as store:
        ours = store.client.set_terminated
        lost: list[str] = []

        def once_lost(run_id: str, status: str) -> None:
            ours(run_id, status)
            if not lost:
                lost.append(status)
                raise MlflowException("the connection was closed", INTERNAL_ERROR)

        monkeypatch.setattr(store.client, "set_terminated", once_lost)
        assert end_run(store, run_id, here).outcome == "ended"
    assert lost == ["KILLED"]
    run = place.client.get_run(run_id)
    assert (run.info.status, run.data.tags["ttt.status"]) == ("KILLED", "killed")


def test_a_record_is_published_into_a_run_that_was_ended(
    place: Place, make_journal: MakeJournal, tmp_path: Path
) -> None:
    """Nothing measured is lost because somebody cleaned up before the record came."""
    journal = make_journal()
    tags = {"ttt.journal_id": journal.journal_id, "ttt.process": json.dumps({**this_process(), "start_ticks": 1})}
    run_id = place.run(tags)
    assert place.clean() == ["ended"]
    published = publish(journal, place.uri, experiment_name=place.name)
    run = place.client.get_run(run_id)
    assert published.run_id == run_id
    assert run.info.status == "FINISHED"
    assert run.data.metrics["decode_tokens_per_s"] == 1234.5
    assert run.data.tags["ttt.status"] == "ok"
    assert run.data.tags["mlflow.note.content"] == "# a run"
    assert "ttt.message" not in run.data.tags


def test_what_mlflow_run_left_takes_its_record_later(place: Place, make_journal: MakeJournal) -> None:
    """A record of a version that wrote no tags until the end."""
    run_id = place.run(PROJECT, PARAMS, timedelta(hours=25))
    journal = make_journal()
    journal.set_target(place.uri, run_id)
    assert place.clean() == ["ended"]
    assert publish(journal, place.uri).run_id == run_id
    assert place.client.get_run(run_id).info.status == "FINISHED"


def test_a_start_time_that_is_none() -> None:
    class Info:
        run_id, run_name, status, start_time = "f" * 32, "", "RUNNING", 10**30

    empty = SimpleNamespace(tags={}, params={}, metrics={})
    run = SimpleNamespace(info=Info, data=empty)
    assert stuck_runs.facts_of(cast(Run, run)).started_at is None


def test_all_experiments(server_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Place(server_uri, "all-1"), Place(server_uri, "all-2")
    monkeypatch.setattr(stuck_runs, "EXPERIMENTS", 1)
    with open_store(server_uri) as store:
        ids = stuck_runs.experiments_of(store, None, everywhere=True)
        assert {"0", one.experiment_id, two.experiment_id} <= set(ids)
        assert stuck_runs.experiments_of(store, "all-2", everywhere=False) == [two.experiment_id]
        runs = {one.gone(), two.gone()}
        found = {run.run_id for run, _ in find_stuck(store, ids, Here.and_now(), lambda done: None)}
        assert runs <= found
    one.clean(), two.clean()

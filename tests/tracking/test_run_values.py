"""What of a record goes to its run: each point once, from whichever copy, however often it was interrupted."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

from tests.catalog import metrics, series, tags
from tests.record.conftest import MakeJournal
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking import run_values
from ttt_mlflow.tracking.run_values import (
    MetricPoint,
    RunValues,
    missing,
    points_of,
    record_id,
    recorded_until,
    send_values,
    values_of,
    values_so_far,
)

POWER = "system/gpu_0_power_usage_watts"


class Server:
    """The points, parameters and tags of one run, as MLflow keeps them. It breaks after ``left`` calls."""

    def __init__(self) -> None:
        self.points: list[MetricPoint] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.left = 10**6

    def run(self) -> Run:
        last: dict[str, MetricPoint] = {}
        for point in sorted(self.points, key=lambda point: (point.step, point.timestamp, point.value)):
            last[point.name] = point
        latest = [Metric(point.name, point.value, point.timestamp, point.step) for point in last.values()]
        info = RunInfo("run", "1", "", "RUNNING", 0, None, "active", run_name="")
        params = [Param(name, text) for name, text in self.params.items()]
        tags = [RunTag(name, text) for name, text in self.tags.items()]
        return Run(info, RunData(latest, params, tags))

    def log_batch(self, run_id: str, points: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]) -> None:
        if not self.left:
            raise OSError("lost")
        self.left -= 1
        # a file store keeps equal points twice
        self.points += [MetricPoint(one.key, one.timestamp, one.step, one.value) for one in points]
        self.params |= {one.key: one.value for one in params}
        self.tags |= {one.key: one.value for one in tags}

    def get_metric_history(self, run_id: str, name: str) -> list[Metric]:
        return [Metric(one.name, one.value, one.timestamp, one.step) for one in self.points if one.name == name]

    def publish(self, values: RunValues, calls: int = 10**6) -> None:
        self.left = calls
        client: Any = self
        with suppress(OSError):
            send_values(client, "run", missing(client, self.run(), values))


NAMES = st.sampled_from(["decode_tokens_per_s", "batch", "pass_tokens_per_s", POWER, "kernel_us/a"])
POINTS = st.lists(
    st.builds(MetricPoint, NAMES, st.integers(1, 3), st.integers(0, 6), st.integers(0, 2).map(float)),
    unique_by=lambda point: (point.name, point.step),
    max_size=25,
)


@given(POINTS, st.lists(st.tuples(st.integers(0, 25), st.integers(0, 4)), max_size=5))
def test_each_point_once_from_any_copies(points: list[MetricPoint], copies: list[tuple[int, int]]) -> None:
    """Copies that end early are published in any order, and interrupted; at last the whole record is."""
    ordered = sorted(points, key=lambda point: (point.name, point.step))
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_values, "ENTRIES_PER_CALL", 4)
        for length, calls in copies:
            server.publish(RunValues("a run", {"p": "1"}, ordered[:length], {"t": "1"}), calls)
        server.publish(RunValues("a run", {"p": "1"}, ordered, {"t": "1"}))
    assert sorted(server.points) == sorted(points)
    assert (server.params, server.tags) == ({"p": "1"}, {"t": "1", "mlflow.runName": "a run"})


def test_a_value_at_another_time_is_not_written_again() -> None:
    """Version 0.1 gave the metrics of a killed run the time at which a file was changed last."""
    server = Server()
    server.points = [MetricPoint("batch", 99, 0, 4.0)]
    server.publish(RunValues("", {}, [MetricPoint("batch", 1, 0, 4.0)], {}))
    assert server.points == [MetricPoint("batch", 99, 0, 4.0)]


def test_a_value_that_changed_is_the_newest() -> None:
    server = Server()
    server.points = [MetricPoint("batch", 99, 0, 4.0)]
    for _ in range(2):
        server.publish(RunValues("", {}, [MetricPoint("batch", 1, 0, 3.0)], {}))
    assert server.points == [MetricPoint("batch", 99, 0, 4.0), MetricPoint("batch", 100, 0, 3.0)]


def test_tags_go_last_and_no_call_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int, int]] = []
    server = Server()
    monkeypatch.setattr(
        server, "log_batch", lambda run_id, points, params, tags: calls.append((len(points), len(params), len(tags)))
    )
    points = [MetricPoint("batch", 1, step, 0.0) for step in range(1950)]
    params, tags = ({f"{kind}{number}": "" for number in range(120)} for kind in "pt")
    server.publish(RunValues("a run", params, points, tags))
    assert calls == [(900, 100, 0), (980, 20, 0), (70, 0, 100), (0, 0, 21)]


def test_a_long_run_sends_some_samples_and_all_results(make_journal: MakeJournal) -> None:
    journal = make_journal()
    rows = [(1_700_000_000_000 + 500 * step, step, float(step)) for step in range(4001)]
    journal.set_series(series({POWER: rows, "pass_tokens_per_s": rows}))
    points = points_of(journal)
    power = [point.step for point in points if point.name == POWER]
    assert power == [*range(0, 4001, 3), 4000]
    assert sum(point.name == "pass_tokens_per_s" for point in points) == 4001


def test_what_a_run_that_goes_on_sends_stays_as_it_is(make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    server = Server()
    server.publish(values_so_far(journal))
    assert "ttt.status" not in server.tags
    assert "mlflow.runColor" not in server.tags  # it depends on how the run ends
    before = list(server.points)
    journal.update_metrics(metrics({"profile_s": 3.0}))
    journal.set_status("ok", exit_code=0)
    server.publish(values_of(journal))
    assert [point.name for point in server.points[len(before) :]] == ["profile_s"]
    assert server.tags["ttt.status"] == "ok"
    assert server.tags["ttt.recorded_until"] == recorded_until(journal)


def test_a_copy_under_another_name_is_the_same_record(make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    journal.update_tags(tags({"ttt.journal_id": journal.journal_id}))
    journal.set_status("ok", exit_code=0)
    with TemporaryDirectory() as folder:
        copy = Journal(Path(shutil.copytree(journal.path, Path(folder, "copy of a run"))))
        assert values_of(copy) == values_of(journal)


def test_a_folder_with_another_id_is_another_record(make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    journal.update_tags(tags({"ttt.journal_id": journal.journal_id}))
    other = "20260101-000000-00000000"
    with TemporaryDirectory() as folder:
        copy = Journal(Path(shutil.copytree(journal.path, Path(folder, other))))
        assert record_id(copy) == other
        copy.update_tags(tags({"ttt.kind": "sweep"}))
        assert record_id(copy) == journal.journal_id, "a sweep's parent goes on as the one that a store has"

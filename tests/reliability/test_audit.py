"""The comparison of a server with records sees every kind of difference."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.audit import Point, Recorded, Store, Stored, differences, recorded, unequal
from tests.reliability.records import multiplied
from ttt_mlflow.record.journal import Journal


@pytest.fixture
def record(originals: list[Journal], tmp_path: Path) -> Path:
    (path,) = multiplied(originals, tmp_path / "records", 1, random.Random(0))
    return path


def same(record: Recorded) -> Stored:
    """A run that holds exactly what ``record`` says."""
    latest: dict[str, Point] = {}
    for point in sorted(record.points, key=lambda point: point[2]):
        latest[point[0]] = point
    held = (record.params, record.points, latest, record.tags, record.files)
    return Stored("1" * 32, "FINISHED", record.started_at, record.ended_at, *held)


def test_what_is_recorded_is_what_the_files_say(record: Path) -> None:
    says = recorded(record)
    assert says.status == "ok"
    assert says.points.total() > 600
    assert len(says.files["extra/large.bin"]) > 1_000_000
    assert says.files["extra/größe β 数.bin"] == (record / "artifacts/extra/größe β 数.bin").read_bytes()
    assert says.files["extra/empty.bin"] == b""
    assert "größe β 数" in says.tags["mlflow.note.content"]


def test_equal_is_no_difference(record: Path) -> None:
    says = recorded(record)
    assert unequal(says, same(says)) == []


def one_point_earlier(run: Stored) -> Stored:
    key, when, step, value = next(iter(run.points))
    return replace(run, points=run.points + Counter([(key, when - 1, step, value)]))


def without_a_point(run: Stored) -> Stored:
    point = next(point for point in run.points if point[2] == 7)
    return replace(run, points=run.points - Counter([point]))


def another_byte(run: Stored) -> Stored:
    content = run.files["extra/large.bin"]
    return replace(run, files={**run.files, "extra/large.bin": content[:-1] + bytes([content[-1] ^ 1])})


TAMPERED: dict[str, Callable[[Stored], Stored]] = {
    "points too many": one_point_earlier,
    "points are missing": without_a_point,
    "artifact extra/large.bin": another_byte,
    "artifact extra/one.bin: none": lambda run: replace(
        run, files={name: content for name, content in run.files.items() if name != "extra/one.bin"}
    ),
    "artifact foreign.txt": lambda run: replace(run, files={**run.files, "foreign.txt": b""}),
    "tag ttt.status": lambda run: replace(run, tags={**run.tags, "ttt.status": "error"}),
    "tag ttt.journal_id: None": lambda run: replace(
        run, tags={name: text for name, text in run.tags.items() if name != "ttt.journal_id"}
    ),
    "status: RUNNING": lambda run: replace(run, status="RUNNING"),
    "end: None": lambda run: replace(run, ended_at=None),
    "start: 0": lambda run: replace(run, started_at=0),
    "parameters": lambda run: replace(run, params={**run.params, "batch": "3"}),
    "latest value of batch": lambda run: replace(run, latest={**run.latest, "batch": ("batch", 0, 0, 0.0)}),
}


@pytest.mark.parametrize("said", TAMPERED)
def test_a_difference_is_seen(record: Path, said: str) -> None:
    says = recorded(record)
    (line,) = unequal(says, TAMPERED[said](same(says)))
    assert said in line


class Kept(Store):
    """A store with these runs of the record, and these runs in its experiment."""

    def __init__(self, stored: Stored, of_the_record: int, others: list[dict[str, Any]]) -> None:
        self._stored = stored
        row = {"run_uuid": stored.run_id, "name": "a run", "status": stored.status}
        self._own, self._others = [row] * of_the_record, others

    def active_runs(self, experiment: str) -> list[dict[str, Any]]:
        return self._own + self._others

    def runs_of(self, journal_id: str) -> list[dict[str, Any]]:
        return self._own

    def stored(self, run: object) -> Stored:
        return self._stored


@pytest.mark.parametrize(
    ("count", "others", "said"),
    [
        (1, [], []),
        (0, [], ["0 active runs"]),
        (2, [], ["2 active runs"]),
        (1, [{"run_uuid": "2", "name": "x", "status": "FINISHED"}], ["belongs to no record"]),
        (1, [{"run_uuid": "2", "name": "x", "status": "RUNNING"}], ["is RUNNING", "belongs to no record"]),
    ],
)
def test_each_record_has_one_run(record: Path, count: int, others: list[dict[str, Any]], said: list[str]) -> None:
    store = Kept(same(recorded(record)), count, others)
    found = differences(store, "an experiment", [record])
    assert len(found) == len(said)
    assert all(text in line for text, line in zip(said, found, strict=True))

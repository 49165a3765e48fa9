"""Compares what a server holds with records on disk, byte by byte.

Both sides are read directly: the record's files as JSON, the server's database with SQL, its artifacts as files. So
nothing that publishes, and nothing that reads a record, takes part in saying what is right.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

Point = tuple[str, int, int, float]  # key, time in ms, step, value
MLFLOW_STATUS = {"ok": "FINISHED", "oom": "FAILED", "error": "FAILED", "killed": "KILLED"}
# What a killed server was writing stays in its folder under such a name. MLflow neither lists nor serves it.
UNFINISHED = ".artifact.uploading."
# metrics that repeat a parameter: a run that was killed between both gets them from its parameters
SIZES = ("batch", "promptlen", "genlen")


@dataclass(frozen=True)
class Recorded:
    """What a record says. files: by path in the run."""

    journal_id: str
    status: str
    started_at: int
    ended_at: int
    params: Mapping[str, str]
    points: Counter[Point]
    tags: Mapping[str, str]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Stored:
    """What a server holds of one run."""

    run_id: str
    status: str
    started_at: int
    ended_at: int | None
    params: Mapping[str, str]
    points: Counter[Point]
    latest: Mapping[str, Point]
    tags: Mapping[str, str]
    files: Mapping[str, bytes]


def recorded(folder: Path) -> Recorded:
    status = _json(folder / "status.json")
    started_at, ended_at = _milliseconds(status["started_at"]), _milliseconds(status["ended_at"])
    points = Counter((key, started_at, 0, float(value)) for key, value in _json(folder / "metrics.json").items())
    for key, rows in _json(folder / "series.json").items():
        points.update((key, int(when), int(step), float(value)) for when, step, value in rows)
    tags = {str(name): str(text) for name, text in _json(folder / "tags.json").items()}
    tags |= {"ttt.journal_id": folder.name, "ttt.status": status["status"]}
    tags |= {"ttt.message": status["message"]} if status["message"] else {}
    files = _files(folder / "artifacts") | {"config.json": (folder / "config.json").read_bytes()}
    if (folder / "description.md").exists():
        description = (folder / "description.md").read_bytes()
        tags["mlflow.note.content"] = description.decode()
        files["summary.md"] = description
    params = _json(folder / "params.json")
    return Recorded(folder.name, status["status"], started_at, ended_at, params, points, tags, files)


class Store:
    """The runs in a server's database, and their artifacts below ``artifacts``."""

    def __init__(self, database: str, artifacts: Path) -> None:
        self._database, self._artifacts = database, artifacts

    def active_runs(self, experiment: str) -> list[dict[str, Any]]:
        return self._rows(
            "select runs.* from runs join experiments using (experiment_id)"
            " where experiments.name = %s and runs.lifecycle_stage = 'active'",
            experiment,
        )

    def runs_of(self, journal_id: str) -> list[dict[str, Any]]:
        return self._rows(
            "select runs.* from runs join tags using (run_uuid)"
            " where tags.key = 'ttt.journal_id' and tags.value = %s and runs.lifecycle_stage = 'active'",
            journal_id,
        )

    def stored(self, run: Mapping[str, Any]) -> Stored:
        run_id = run["run_uuid"]
        all_points = "select key, timestamp, step, value from {} where run_uuid = %s"
        folder = self._artifacts / str(run["experiment_id"]) / run_id / "artifacts"
        return Stored(
            run_id,
            run["status"],
            run["start_time"],
            run["end_time"],
            {row["key"]: row["value"] for row in self._rows("select * from params where run_uuid = %s", run_id)},
            Counter(_point(row) for row in self._rows(all_points.format("metrics"), run_id)),
            {row["key"]: _point(row) for row in self._rows(all_points.format("latest_metrics"), run_id)},
            {row["key"]: row["value"] for row in self._rows("select * from tags where run_uuid = %s", run_id)},
            {path: content for path, content in _files(folder).items() if not Path(path).name.startswith(UNFINISHED)},
        )

    def is_empty_ghost(self, run: Mapping[str, Any]) -> bool:
        """Whether it is what remains, without the right to delete, of a run that was made twice."""
        stored = self.stored(run)
        holds_nothing = not (stored.params or stored.points or stored.files)
        beside = re.search("beside ([0-9a-f]{32}),", stored.tags.get("ttt.message", ""))
        return run["name"] == "made twice" and holds_nothing and beside is not None and run["status"] == "KILLED"

    def _rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self._database, row_factory=dict_row) as connection:
            return connection.execute(query, values).fetchall()


def differences(store: Store, experiment: str, folders: Iterable[Path]) -> list[str]:
    """How the store differs from the records in ``folders``, one line each; empty if they agree in everything.

    A record's run is looked for in all experiments. ``experiment`` has those records' runs and no others, but for the
    empty ones that a user who may not delete leaves behind.
    """
    found: list[str] = []
    known: set[str] = set()
    for folder in folders:
        record = recorded(folder)
        runs = store.runs_of(record.journal_id)
        known |= {run["run_uuid"] for run in runs}
        if len(runs) != 1:
            found.append(f"{record.journal_id}: {len(runs)} active runs")
        found += [f"{record.journal_id}: {line}" for run in runs for line in unequal(record, store.stored(run))]
    for run in store.active_runs(experiment):
        if run["status"] == "RUNNING":
            found.append(f"run {run['run_uuid']} ({run['name']}) is RUNNING")
        if run["run_uuid"] not in known and not store.is_empty_ghost(run):
            found.append(f"run {run['run_uuid']} ({run['name']}, {run['status']}) belongs to no record")
    return found


def unequal(record: Recorded, run: Stored) -> list[str]:
    found = []
    facts = {
        "status": (run.status, MLFLOW_STATUS[record.status]),
        "start": (run.started_at, record.started_at),
        "end": (run.ended_at, record.ended_at),
        "parameters": (run.params, record.params),
    }
    found += [f"{name}: {has}, recorded {says}" for name, (has, says) in facts.items() if has != says]
    derived = {(key, record.started_at, 0, float(record.params[key])) for key in SIZES if key in record.params}
    surplus = [point for point in (run.points - record.points).elements() if point not in derived]
    missing = list((record.points - run.points).elements())
    found += [f"{len(surplus)} points too many: {surplus[:3]}"] if surplus else []
    found += [f"{len(missing)} points are missing: {missing[:3]}"] if missing else []
    found += [
        f"latest value of {key}: {run.latest.get(key)}"
        for key, last in _last(run).items()
        if run.latest.get(key) != last
    ]
    found += [
        f"tag {name}: {run.tags.get(name)!r}, recorded {text!r}"
        for name, text in record.tags.items()
        if run.tags.get(name) != text
    ]
    for name in sorted(record.files.keys() | run.files.keys()):
        has, says = run.files.get(name), record.files.get(name)
        if has != says:
            found.append(f"artifact {name}: {_size(has)}, recorded {_size(says)}")
    return found


def _last(run: Stored) -> dict[str, Point]:
    """The point of each metric that MLflow shows: that of the last step, then of the last time, then the largest."""
    last: dict[str, Point] = {}
    for key, when, step, value in sorted(run.points, key=lambda point: (point[2], point[1], point[3])):
        last[key] = (key, when, step, value)
    return last


def _point(row: Mapping[str, Any]) -> Point:
    return row["key"], row["timestamp"], row["step"], row["value"]


def _size(content: bytes | None) -> str:
    return "none" if content is None else f"{len(content)} bytes"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def _milliseconds(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)

"""One run as a row of a table: its values, each file of a record read at most once, and nothing parsed further."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ttt_mlflow.config import as_text
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.method import FIRST_METHOD
from ttt_mlflow.names import TAG_ENTRY_POINT, TAG_KIND, TAG_METHOD, TAG_STATUS
from ttt_mlflow.record.derived import sizes
from ttt_mlflow.record.journal import JOURNAL_ID, STATUSES, Journal
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun, kind_of

KINDS = ("decode", "prefill", "micro")  # what a table shows unless other kinds are asked for


@dataclass(frozen=True)
class RunRow:
    """The values of one run. ``metrics`` and ``tags`` have those that its parameters determine, also in an older run.

    params: as MLflow has them, or those of the configuration as given if the run ended before it chose its values.
    """

    run: RecordedRun
    kind: str
    started_at: datetime
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def id(self) -> str:
        return self.run.id


class UnchangingJournal(Journal):
    """A journal for reading. Each of its JSON files is read at most once, so later changes are not seen."""

    @cached_property
    def _read(self) -> dict[str, dict[str, Any]]:
        return {}

    def _read_json(self, name: str, default: dict[str, Any]) -> dict[str, Any]:
        if name not in self._read:
            self._read[name] = super()._read_json(name, default)
        return self._read[name]


def find_records(root: Path | str) -> list[LocalRun]:
    """The records directly in ``root``, or ``root`` itself if it is one. Their content is not read yet.

    Raises BadInput if ``root`` is no folder.
    """
    root = Path(root).absolute()
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder")
    if (root / "status.json").exists():
        return [LocalRun(UnchangingJournal(root))]
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if JOURNAL_ID.fullmatch(entry.name))
    return [LocalRun(UnchangingJournal(root / name)) for name in names if _has_status(root / name)]


def _has_status(folder: Path) -> bool:
    """Whether the folder is a record. One without a status is none: its process ended before it wrote one."""
    try:
        os.stat(folder / "status.json")
    except FileNotFoundError:
        return False
    except OSError:
        return True  # a record that cannot be read, which its reader says
    return True


def local_row(run: LocalRun, with_series: bool = False) -> RunRow:
    """The row of a record. Raises BadInput if a file of it is damaged.

    with_series: metrics also has the last value of each time series, whose file is the largest of a record. A name is
    either a metric or a series.
    """
    journal = run.journal
    status = journal.status
    try:
        started_at = datetime.fromisoformat(status["started_at"])
        if status["ended_at"] is not None:
            datetime.fromisoformat(status["ended_at"])
    except (KeyError, TypeError, ValueError):
        raise BadInput(f"{journal.path}: its status.json does not say when the run began and ended") from None
    if status.get("status") not in STATUSES:
        raise BadInput(f"{journal.path}: its status.json has no known status")
    params = journal.params or {name: as_text(value) for name, value in journal.settings.items()}
    metrics, tags = journal.metrics, journal.tags
    if not all(isinstance(value, int | float) for value in metrics.values()):
        raise BadInput(f"{journal.path}: its metrics.json has a value that is not a number")
    for file, texts in (("params.json", params), ("tags.json", tags)):
        if not all(isinstance(value, str) for value in texts.values()):
            raise BadInput(f"{journal.path}: its {file} has a value that is not a text")
    if with_series:
        try:
            metrics = run.metrics
        except (TypeError, ValueError):
            raise BadInput(f"{journal.path}: its series.json has a series that is none") from None
    kind = tags.get(TAG_KIND.name) or kind_of(tags, run.entry_point, params.get("mode"))
    started_at = started_at if started_at.tzinfo else started_at.astimezone()
    return _completed(run, kind, started_at, str(status["status"]), (params, metrics, tags))


def store_row(run: RecordedRun) -> RunRow | None:
    """The row of a run in a store; None for a run that another program made, which has none of this program's tags."""
    tags = run.tags
    if not any(tag.name in tags for tag in (TAG_STATUS, TAG_KIND, TAG_ENTRY_POINT)):
        return None
    return _completed(run, run.kind, run.started_at, run.status, (run.params, run.metrics, tags))


def _completed(
    run: RecordedRun,
    kind: str,
    started_at: datetime,
    status: str,
    values: tuple[Mapping[str, str], Mapping[str, float], Mapping[str, str]],
) -> RunRow:
    """The row, with the metrics and tags that version 0.1 did not record although its parameters determine them."""
    params, metrics, tags = values
    metrics = {**sizes(kind, params), **metrics}
    tags = {TAG_KIND.name: kind, TAG_METHOD.name: str(FIRST_METHOD), **tags}
    return RunRow(run, kind, started_at, status, params, metrics, tags)

"""A recorded run, as all readers see it. The record is a folder on this disk or a run on a server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ttt_mlflow.names import Artifact
from ttt_mlflow.record.journal import Journal


class RecordedRun(Protocol):
    """The interface that tables, comparisons and profile differences read.

    entry_point: ``main`` or ``micro``. status: ok, oom, error, killed or running. settings: the configuration as used,
    with Python types. params, metrics, tags: as MLflow has them, by name. A series is in metrics with its last value.
    """

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def entry_point(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def params(self) -> dict[str, str]: ...
    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def tags(self) -> dict[str, str]: ...

    def artifact(self, artifact: Artifact) -> Path | None:
        """A file with the content of ``artifact``; None if the run does not have it."""


@dataclass(frozen=True)
class LocalRun:
    """A record in a folder on this disk; see :class:`RecordedRun`."""

    journal: Journal

    @property
    def id(self) -> str:
        return self.journal.journal_id

    @property
    def name(self) -> str:
        return self.journal.run_name

    @property
    def entry_point(self) -> str:
        return self.journal.entry_point

    @property
    def status(self) -> str:
        return str(self.journal.status["status"])

    @property
    def settings(self) -> dict[str, Any]:
        return self.journal.settings

    @property
    def params(self) -> dict[str, str]:
        return self.journal.params

    @property
    def metrics(self) -> dict[str, float]:
        # as MLflow: the value of the last step
        last = {
            name: max(points, key=lambda point: (point[1], point[0], point[2]))[2]
            for name, points in self.journal.series.items()
            if points
        }
        return self.journal.metrics | last

    @property
    def tags(self) -> dict[str, str]:
        return self.journal.tags

    def artifact(self, artifact: Artifact) -> Path | None:
        path = self.journal.artifacts / artifact.path
        return path if path.is_file() else None

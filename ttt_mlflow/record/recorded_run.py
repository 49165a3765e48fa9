"""A recorded run, as all readers see it. The record is a folder on this disk or a run on a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.names import ARTIFACT_HOST, TAG_KIND, Artifact
from ttt_mlflow.record.finding import when
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.json_files import parse_json
from ttt_mlflow.record.pass_log import throughput_so_far


class RecordedRun(Protocol):
    """The interface that tables, comparisons and profile differences read.

    entry_point: ``main`` or ``micro``. kind: decode, prefill, micro, sweep or compare, also for a run that was recorded
    before runs had that tag. started_at: when the run began. commit: the git commit that was measured, if known.
    status: ok, oom, error, killed or running. settings: the configuration as used, with Python types. params, metrics,
    tags: as MLflow has them, by name. A series is in metrics with its last value.
    """

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def entry_point(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def commit(self) -> str | None: ...
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


def kind_of(tags: Mapping[str, str], entry_point: str, mode: str | None) -> str:
    """The kind of a run, from its tag or, for a run of version 0.1, from its entry point and mode."""
    return tags.get(TAG_KIND.name) or (entry_point if entry_point != RunConfig.entry_point else mode or "decode")


@dataclass(frozen=True)
class LocalRun:
    """A record in a folder on this disk; see :class:`RecordedRun`. Each property raises DamagedRecord if it is one."""

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
    def kind(self) -> str:
        return kind_of(self.tags, self.entry_point, self.settings.get("mode"))

    @property
    def started_at(self) -> datetime:
        return when(self.journal.status["started_at"])

    @property
    def commit(self) -> str | None:
        commit = read_object(self, ARTIFACT_HOST).get("git_commit")
        return None if commit is None else str(commit)

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
        return metrics_by_now(self.journal) | last

    @property
    def tags(self) -> dict[str, str]:
        return self.journal.tags

    def artifact(self, artifact: Artifact) -> Path | None:
        return self.journal.artifact_file(artifact.path)


def metrics_by_now(journal: Journal) -> dict[str, float]:
    """The metrics of a record. For a run without an end they have the throughput of the passes that it has."""
    so_far = throughput_so_far(journal.path) if journal.status["status"] == "running" else {}
    return so_far | journal.metrics


def read_object(run: RecordedRun, artifact: Artifact) -> dict[str, Any]:
    """A JSON artifact; empty if the run ended before it wrote it. Raises DamagedRecord if it holds anything else."""
    path = run.artifact(artifact)
    if path is None:
        return {}
    return parse_json(read_artifact(run, artifact, path), f"{run.id}: {artifact.path}")


def read_artifact(run: RecordedRun, artifact: Artifact, path: Path) -> bytes:
    """The content of ``path``, which :meth:`RecordedRun.artifact` returned."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedRecord(f"{run.id}: {artifact.path}: cannot be read ({error.strerror})") from None

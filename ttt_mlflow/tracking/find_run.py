"""Finds a recorded run by the folder of its record, the id of its record, or the id of its MLflow run."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttt_mlflow.config import CONFIGURATIONS, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.names import ARTIFACT_HOST, TAG_ENTRY_POINT, TAG_GIT_COMMIT, TAG_STATUS, Artifact
from ttt_mlflow.record.checked import CheckedJournal
from ttt_mlflow.record.journal_reader import JOURNAL_ID
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun, kind_of, read_object
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.artifact_stores import store_of
from ttt_mlflow.tracking.store import CHECK_STORE, client_for_reading, explain, known_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MLFLOW_RUN_ID = re.compile(r"[0-9a-f]{32}")


class StoreRun:
    """A run in a tracking store; see :class:`RecordedRun`. Artifacts are downloaded to ``folder`` on demand.

    It keeps plain dictionaries and not MLflow's objects, one for each metric: with those of 10,000 runs, Python's
    garbage collection takes half as long as the server.
    """

    def __init__(self, client: "MlflowClient", run: "Run", folder: Path) -> None:
        self._client, self._info, self._folder = client, run.info, folder
        self.params: dict[str, str] = dict(run.data.params)
        self.metrics: dict[str, float] = dict(run.data.metrics)
        self.tags: dict[str, str] = dict(run.data.tags)
        self._fetched: dict[str, Path | None] = {}

    @property
    def id(self) -> str:
        return str(self._info.run_id)

    @property
    def name(self) -> str:
        return self._info.run_name or "a run"

    @property
    def experiment_id(self) -> str:
        return str(self._info.experiment_id)

    @property
    def entry_point(self) -> str:
        return self.tags.get(TAG_ENTRY_POINT.name, RunConfig.entry_point)

    @property
    def kind(self) -> str:
        return kind_of(self.tags, self.entry_point, self.params.get("mode"))

    @property
    def started_at(self) -> datetime:
        return datetime.fromtimestamp(self._info.start_time / 1e3).astimezone()

    @property
    def commit(self) -> str | None:
        # a run that `ttt-mlflow run` of version 0.1 made has no git tag, but its host's facts name the commit
        commit = self.tags.get(TAG_GIT_COMMIT.name) or read_object(self, ARTIFACT_HOST).get("git_commit")
        return None if commit is None else str(commit)

    @property
    def status(self) -> str:
        return self.tags.get(TAG_STATUS.name, str(self._info.status).lower())

    @cached_property
    def settings(self) -> dict[str, Any]:
        kind = CONFIGURATIONS.get(self.entry_point)
        if kind is None:
            raise BadInput(f"{self.id}: a run of {self.entry_point}; this version reads {', '.join(CONFIGURATIONS)}")
        return kind.parse({name: text for name, text in self.params.items() if name in kind.model_fields}).model_dump()

    def artifact(self, artifact: Artifact) -> Path | None:
        if artifact.path not in self._fetched:
            self._fetched[artifact.path] = self._fetch(artifact.path)
        return self._fetched[artifact.path]

    def _fetch(self, path: str) -> Path | None:
        own = self._folder / self.id
        own.mkdir(parents=True, exist_ok=True)
        return store_of(self._info.artifact_uri, self._client.tracking_uri).fetched(path, own)


@contextmanager
def found_run(run: str, logdir: Path, tracking_uri: str) -> Iterator[RecordedRun]:
    """The run that ``run`` identifies. Downloaded files stay on this disk until the block ends.

    Raises :class:`BadInput` with the accepted forms, or with the reason for which the store did not return the run, and
    :class:`DamagedRecord` for a record that is not what was written.
    """
    if JOURNAL_ID.fullmatch(run) and (logdir / run).is_dir():
        yield LocalRun(CheckedJournal.open(logdir / run))
    elif Path(run).is_dir():
        yield LocalRun(CheckedJournal.open(run))
    elif MLFLOW_RUN_ID.fullmatch(run):
        try:
            with tempfile.TemporaryDirectory() as folder, client_for_reading(tracking_uri) as client:
                yield StoreRun(client, client.get_run(run), Path(folder))
        except known_errors() as error:
            place = without_secrets(tracking_uri)
            why = f"not available from {place} ({explain(error, tracking_uri)}); check the id; {CHECK_STORE}"
            raise BadInput(f"{run}: {why}") from None
    else:
        raise BadInput(
            f"{run}: no such run; give the folder of a record, the id of one in {logdir}, or the id of an MLflow run"
        )

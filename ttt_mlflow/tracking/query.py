"""Reads runs from a tracking store: one by its id, or many by a filter."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow.errors import BadInput
from ttt_mlflow.names import Artifact
from ttt_mlflow.record.recorded_run import RecordedRun
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.artifacts import in_parallel
from ttt_mlflow.tracking.filters import LIKE_THIS
from ttt_mlflow.tracking.find_run import StoreRun
from ttt_mlflow.tracking.store import (
    CHECK_STORE,
    DEFAULT_EXPERIMENT,
    MLFLOW_DEFAULT_ID,
    client_for_reading,
    explain,
    known_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

MLFLOW_DEFAULT = "Default"  # where `mlflow run .` puts its runs
PARENT = "mlflow.parentRunId"  # MLflow's own tag
PAGE = 1000  # runs a request; the server's limit is 50,000


class Store:
    """A tracking store that is read. Artifacts are downloaded to ``folder`` on demand."""

    def __init__(self, client: "MlflowClient", uri: str, folder: Path) -> None:
        self.client, self.place, self._folder = client, without_secrets(uri), folder
        self._experiments: dict[str | None, list[str]] = {}  # asked for once, not for each search

    def run(self, run_id: str) -> StoreRun | None:
        """The run with that id; None if the store has none. A deleted run is none."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return StoreRun(self.client, run, self._folder) if run.info.lifecycle_stage == "active" else None

    def search(
        self,
        condition: str = "",
        experiment_name: str | None = None,
        order_by: Sequence[str] = ("attributes.start_time DESC",),
        limit: int | None = None,
    ) -> list[StoreRun]:
        """The runs that fit ``condition`` (MLflow's filter syntax), the newest first.

        Raises BadInput for an unknown experiment and for a condition that MLflow does not understand.
        """
        return list(self.each(condition, experiment_name, order_by, limit))

    def each(
        self,
        condition: str = "",
        experiment_name: str | None = None,
        order_by: Sequence[str] = ("attributes.start_time DESC",),
        limit: int | None = None,
        page: int = PAGE,
    ) -> Iterator[StoreRun]:
        """The same one by one: a page of ``page`` runs is requested when the runs before it are used up."""
        from mlflow.exceptions import MlflowException

        experiments = self.experiments(experiment_name)
        left, token = limit, None
        while experiments and left != 0:
            try:
                runs = self.client.search_runs(
                    experiments,
                    condition,
                    max_results=page if left is None else min(page, left),
                    order_by=list(order_by),
                    page_token=token,
                )
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                raise BadInput(
                    f"filter {condition}: MLflow does not understand it ({explain(error)}); {LIKE_THIS}"
                ) from None
            for run in runs:
                yield StoreRun(self.client, run, self._folder)
            left = None if left is None else left - len(runs)
            token = runs.token
            if not token:
                return

    def children(self, run_id: str) -> list[StoreRun]:
        """The child runs of a run, in its experiment."""
        experiment_id = self.client.get_run(run_id).info.experiment_id
        condition = f"tags.`{PARENT}` = '{run_id}'"
        found = self.client.search_runs([experiment_id], condition, max_results=PAGE)
        return [StoreRun(self.client, run, self._folder) for run in found]

    def experiments(self, name: str | None) -> list[str]:
        """The ids of the experiment ``name``, or of those in which this program's runs are by default.

        The default is MLFLOW_EXPERIMENT_NAME, else MLFLOW_EXPERIMENT_ID, else ``ttt-mlflow`` and MLflow's own default.
        Raises BadInput if there is none of that name.
        """
        if name not in self._experiments:
            self._experiments[name] = self._found_experiments(name)
        return self._experiments[name]

    def _found_experiments(self, name: str | None) -> list[str]:
        asked = name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
        # `mlflow run` sets the variable for its process, also where nobody chose an experiment
        unasked = experiment_id == MLFLOW_DEFAULT_ID and "MLFLOW_RUN_ID" in os.environ
        if not asked and experiment_id and not unasked:
            return [experiment_id]
        wanted = [asked] if asked else [DEFAULT_EXPERIMENT, MLFLOW_DEFAULT]
        found = [self.client.get_experiment_by_name(one) for one in wanted]
        ids = [str(one.experiment_id) for one in found if one is not None]
        if asked and not ids:
            known = ", ".join(sorted(one.name for one in self.client.search_experiments(max_results=20)))
            raise BadInput(f"experiment_name={asked}: {self.place} has no such experiment; it has {known}")
        return ids


def fetch(runs: Sequence[RecordedRun], artifact: Artifact, tell: Callable[[int], None]) -> None:
    """Download an artifact of those runs that are in a store, several at once. tell: is told how many are there."""
    there = count(1)

    def one(run: StoreRun) -> None:
        run.artifact(artifact)
        tell(next(there))

    in_parallel(one, [run for run in runs if isinstance(run, StoreRun)])


@contextmanager
def open_store(uri: str) -> Iterator[Store]:
    """The store ``uri``. Downloaded files stay on this disk until the block ends.

    Raises BadInput with the reason in one line if the store does not exist or does not answer, in the block too.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, client_for_reading(uri) as client:
            yield Store(client, uri, Path(folder))
    except known_errors() as error:
        raise BadInput(
            f"tracking_uri={without_secrets(uri)}: cannot be read ({explain(error, uri)}); {CHECK_STORE}"
        ) from None

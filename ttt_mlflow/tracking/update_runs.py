"""Adds to runs that are in a store already what their parameters and their end determine; see :mod:`.derived`."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.config import as_text
from ttt_mlflow.record.recorded_run import kind_of
from ttt_mlflow.tracking.best import mark_best_of
from ttt_mlflow.tracking.derived import missing_metrics, missing_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000  # runs a request
OWN = f"tags.`{names.TAG_ENTRY_POINT.name}` IS NOT NULL"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Updated:
    """How many runs were looked at, how many got something, and how many were marked or unmarked as the best."""

    runs: int
    changed: int
    marked: int


def update_runs(client: "MlflowClient", experiment_id: str, progress: Progress) -> Updated:
    """Add what is missing to the runs of this program in the experiment. Nothing that is there changes.

    Doing it twice adds nothing. A run that has not ended is left alone. ``progress`` is told in words what has been
    done. Raises what the store raises.
    """
    runs = [run for run in _own_runs(client, experiment_id, progress) if run.info.status != "RUNNING"]
    changed = 0
    for number, run in enumerate(runs, 1):
        changed += _complete(client, run)
        progress(f"{number} of {len(runs)} runs updated")
    return Updated(len(runs), changed, mark_best_of(client, _own_runs(client, experiment_id, progress)))


def _own_runs(client: "MlflowClient", experiment_id: str, progress: Progress) -> list["Run"]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], OWN, max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
        progress(f"{len(found)} runs read")


def _params_as_used(client: "MlflowClient", run: "Run") -> dict[str, str]:
    """The parameters of a run. `mlflow run` logged them as given: what was chosen for ``auto`` is in an artifact."""
    params = dict(run.data.params)
    colored = names.TAG_SERIES.name in run.data.tags
    if colored or params.get("inner_net") != as_text(None):
        return params
    if not any(file.path == names.ARTIFACT_CONFIG.path for file in client.list_artifacts(run.info.run_id)):
        return params
    with tempfile.TemporaryDirectory() as folder:
        file = client.download_artifacts(run.info.run_id, names.ARTIFACT_CONFIG.path, folder)
        used = json.loads(Path(file).read_text())["used"]
    params.pop("inner_net")
    return params | ({"inner_net": used["inner_net"]} if used.get("inner_net") else {})


def _complete(client: "MlflowClient", run: "Run") -> bool:
    """Add what is missing to one run. Returns whether something was."""
    from mlflow.entities import Metric, RunTag

    params, tags = _params_as_used(client, run), run.data.tags
    kind = kind_of(tags, tags[names.TAG_ENTRY_POINT.name], params.get("mode"))
    metrics = missing_metrics(kind, params, run.data.metrics)
    added = missing_tags(params, tags)
    if metrics or added:
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, value, run.info.end_time, 0) for name, value in metrics.items()],
            tags=[RunTag(name, value) for name, value in added.items()],
        )
    return bool(metrics or added)

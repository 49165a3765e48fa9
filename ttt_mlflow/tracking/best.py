"""Keeps the tag ``ttt.best``: the fastest valid run of each configuration in an experiment.

MLflow's table and charts load the newest or highest 100 runs alone. Only a filter brings the best run of every
configuration onto one page, and a filter needs a tag.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from ttt_mlflow import names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# kind of a run -> the throughput by which it is the best
THROUGHPUT = {"decode": names.DECODE_TOKENS_PER_S, "prefill": names.PREFILL_TOKENS_PER_S}
YES = "true"
FASTEST = 10  # runs that one publication looks at


def mark_best(client: "MlflowClient", experiment_id: str, config_id: str, kind: str) -> None:
    """Mark the best run of one configuration, and no other. One request to read, and one for each run that changes.

    It reads the fastest runs only: the one that had the mark until now is among them.
    """
    if kind not in THROUGHPUT:
        return
    condition = f"tags.`{names.TAG_CONFIG_ID.name}` = '{config_id}' AND tags.`{names.TAG_VERDICT.name}` = 'valid'"
    order = [f"metrics.`{THROUGHPUT[kind].name}` DESC"]
    mark_best_of(client, client.search_runs([experiment_id], condition, max_results=FASTEST, order_by=order))


def mark_best_of(client: "MlflowClient", runs: Iterable["Run"]) -> int:
    """Mark the best run of each configuration among ``runs``. Returns how many runs changed."""
    changed = 0
    known = sorted((run for run in runs if names.TAG_CONFIG_ID.name in run.data.tags), key=_config_id)
    for _, same in groupby(known, _config_id):
        repetitions = list(same)
        best = max(filter(_counts, repetitions), key=_throughput, default=None)
        for run in repetitions:
            marked = names.TAG_BEST.name in run.data.tags
            if run is best and not marked:
                client.set_tag(run.info.run_id, names.TAG_BEST.name, YES)
            elif run is not best and marked:
                client.delete_tag(run.info.run_id, names.TAG_BEST.name)
            else:
                continue
            changed += 1
    return changed


def _config_id(run: "Run") -> str:
    return str(run.data.tags[names.TAG_CONFIG_ID.name])


def _counts(run: "Run") -> bool:
    tags = run.data.tags
    valid = tags.get(names.TAG_VERDICT.name) == "valid" and tags.get(names.TAG_STATUS.name, "ok") == "ok"
    return valid and _throughput(run) > 0


def _throughput(run: "Run") -> float:
    """Tokens/s; 0 for a run that has none."""
    metric = THROUGHPUT.get(run.data.tags.get(names.TAG_KIND.name, ""))
    return float(run.data.metrics.get(metric.name, 0.0)) if metric else 0.0

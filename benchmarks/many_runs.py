"""Fills a tracking store with many runs, as publishing writes them. All numbers are made up.

The rows are written straight into the database: through MLflow's API, 10,000 runs would take an hour.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from mlflow.store.tracking.dbmodels import models
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import insert

from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.tracking.derived import missing_metrics, missing_tags

GROUP = 500  # runs of one transaction
FIRST_MS, HOUR_MS = 1_700_000_000_000, 3_600_000
MODELS = (("ttt-1b", "mlp_1_dual_triton"), ("ttt-1b", "mlp_2_dual_triton"), ("ttt-125m", "mlp_1_dual_triton"))
BATCHES = (1, 4, 16, 64, 128, 256, 512, 1024)
PASSES, STEPS = 6, 128
COMMITS = 500  # runs of each commit


@dataclass(frozen=True)
class Store:
    """A store to fill. artifacts: the server's folder of artifacts; None: without artifacts."""

    uri: str
    experiment: str
    artifacts: Path | None = None


def fill(store: Store, count: int, older: int = 0) -> str:
    """Write ``count`` runs, the last ``older`` as version 0.1 made them. Returns the id of the experiment.

    Of 50 runs, 5 are prefill and one is a comparison; of 13, one is invalid.
    """
    backend = SqlAlchemyStore(store.uri, "mlflow-artifacts:/")
    found = backend.get_experiment_by_name(store.experiment)
    experiment_id = found.experiment_id if found else backend.create_experiment(store.experiment)
    rows = (rows_of(number, int(experiment_id), number >= count - older) for number in range(count))
    while some := list(islice(rows, GROUP)):
        with backend.engine.begin() as connection:
            for table in (models.SqlRun, models.SqlParam, models.SqlTag, models.SqlMetric, models.SqlLatestMetric):
                values = [row for run in some for row in run[table]]
                connection.execute(insert(table), values)
        if store.artifacts:
            for run in some:
                _write_passes(store.artifacts, run[models.SqlRun][0])
    backend.engine.dispose()
    return str(experiment_id)


def rows_of(number: int, experiment_id: int, older: bool = False) -> dict[Any, list[dict[str, Any]]]:
    """The rows of one run by their table. older: as version 0.1 made it."""
    run_id = UUID(int=(experiment_id << 64) + number).hex
    model, net = MODELS[number // len(BATCHES) % len(MODELS)]
    mode = "prefill" if number % 10 == 7 else "decode"
    given = {"model_name": model, "inner_net": net, "batch": BATCHES[number % len(BATCHES)], "mode": mode}
    config = RunConfig.parse(given | {"promptlen": 256 if mode == "prefill" else 1, "dtype": "float16"})
    params, kind = config.as_params(), "compare" if number % 50 == 49 else mode
    metrics, tags = _values(number, config), _tags(number, config, kind)
    if older:
        del tags[names.TAG_KIND.name], tags[names.TAG_METHOD.name]
    else:
        metrics |= missing_metrics(kind, params, metrics)
        tags |= missing_tags(params, tags)
    start = FIRST_MS + number * HOUR_MS
    info = {"run_uuid": run_id, "name": config.run_name, "experiment_id": experiment_id, "status": "FINISHED"}
    info |= {"start_time": start, "end_time": start + 60_000, "lifecycle_stage": "active", "user_id": "someone"}
    info |= {"source_type": "LOCAL", "artifact_uri": f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts"}
    point = {"run_uuid": run_id, "timestamp": start, "step": 0, "is_nan": False}
    points = [{**point, "key": name, "value": value} for name, value in metrics.items()]
    return {
        models.SqlRun: [info],
        models.SqlParam: [{"run_uuid": run_id, "key": name, "value": text} for name, text in params.items()],
        models.SqlTag: [{"run_uuid": run_id, "key": name, "value": text} for name, text in tags.items()],
        models.SqlMetric: points,
        models.SqlLatestMetric: points,
    }


def _values(number: int, config: RunConfig) -> dict[str, float]:
    """All metrics of a run on a GPU, and the last points of its series."""
    rate = _rate(number)
    throughput = names.PREFILL_TOKENS_PER_S if config.mode == "prefill" else names.DECODE_TOKENS_PER_S
    values = {metric.name: round(1 + number % 97 / 7, 4) for metric in names.METRICS}
    del values[names.PREFILL_TOKENS_PER_S.name], values[names.DECODE_TOKENS_PER_S.name]
    values |= {metric.of(0).name: 100.0 + number % 50 for metric in names.SYSTEM_METRICS}
    return values | {throughput.name: rate, throughput.ci_low.name: rate * 0.998, throughput.ci_high.name: rate * 1.002}


def _rate(number: int) -> float:
    return round(50_000 * (1 + number * 37 % 1009 / 1e5), 1)


def _tags(number: int, config: RunConfig, kind: str) -> dict[str, str]:
    valid = number % 13 != 5
    start = datetime.fromtimestamp((FIRST_MS + number * HOUR_MS) / 1000, UTC)
    return {
        names.TAG_JOURNAL_ID.name: f"{start:%Y%m%d-%H%M%S}-{number:08x}",
        names.TAG_ENTRY_POINT.name: "compare" if kind == "compare" else config.entry_point,
        names.TAG_KIND.name: kind,
        names.TAG_METHOD.name: "1",
        names.TAG_STATUS.name: "ok",
        names.TAG_VERDICT.name: "valid" if valid else "invalid",
        names.TAG_CONFIG_ID.name: config.config_id(),
        names.TAG_GPU_NAME.name: "NVIDIA H200",
        names.TAG_GIT_COMMIT.name: f"{number // COMMITS:040x}",
        names.TAG_RECORDED_UNTIL.name: start.isoformat(),
        names.TAG_HOST.name: "gpu-3",
        "mlflow.user": "someone",
        "mlflow.runName": config.run_name,
        "mlflow.source.name": "ttt-mlflow",
        "mlflow.note.content": "A summary of the run. " * 60,
    }


def _write_passes(artifacts: Path, info: dict[str, Any]) -> None:
    """The artifact that a comparison reads."""
    number = UUID(info["run_uuid"]).int & (1 << 64) - 1
    ms = 1000 * STEPS / _rate(number)
    times = [round(ms * (1 + 1e-4 * one), 6) for one in _spread(number)]
    passes = {"tokens_per_pass": STEPS, "repeat_total_ms": times, "repeat_complete": [True] * PASSES}
    path = artifacts / str(info["experiment_id"]) / info["run_uuid"] / "artifacts" / names.ARTIFACT_PASSES.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(passes))


def _spread(number: int) -> Iterator[int]:
    return (number * 31 % 7 + one % 3 for one in range(PASSES))

"""200 runs in a store, with the parameters, metrics and tags of this program's runs. All numbers are made up."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import cycle, islice, product
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.tracking.best import mark_best_of
from ttt_mlflow.tracking.derived import missing_metrics, missing_tags
from ttt_mlflow.workload import PARTS

MODELS = (
    ("ttt-1b", "mlp_1_dual_triton", 90.0),
    ("ttt-1b", "mlp_2_dual_triton", 60.0),
    ("ttt-125m", "mlp_1_dual_triton", 420.0),
    ("state-spaces/mamba-1.4b", None, 110.0),
)
BATCHES = (1, 4, 16, 64, 128, 256, 512, 1024)
START_MS, HOUR_MS = 1_795_000_000_000, 3_600_000
DECODE_RUNS, PREFILL_RUNS, PROFILED_RUNS = 172, 16, 4
REASONS = ("clocks_dropped", "other_processes", "drift", "wide_interval")


def fill(client: MlflowClient, experiment_id: str, server: MlflowClient) -> None:
    """172 decode runs, 16 prefill runs, 4 profiled runs, 6 micro-benchmarks, one that failed, one of somebody else.

    Half of the decode and prefill runs are those of a sweep, whose parent is one more run.

    client: of the server's database, which is faster; the server itself only gets the artifacts.
    """
    hours = iter(range(1000))
    sweep = {names.TAG_KIND.name: "sweep", names.TAG_JOURNAL_ID.name: _journal_id(0, 0)}
    parent = _create(client, experiment_id, next(hours), "sweep decode", sweep)
    client.set_terminated(parent)
    for number, config in enumerate(islice(cycle(configs("decode")), DECODE_RUNS)):
        log_run(client, experiment_id, next(hours), config, number, parent if number % 2 else None)
    for number, config in enumerate(islice(cycle(configs("prefill")), PREFILL_RUNS)):
        log_run(client, experiment_id, next(hours), config, 100 + number, parent if number % 2 else None)
    for number, config in enumerate(islice(configs("decode", profile="torch", genlen=32), 3, 32, 8)):
        _profiled(server, log_run(client, experiment_id, next(hours), config, number), number)
    for number in range(6):
        tags = {names.TAG_ENTRY_POINT.name: "micro", names.TAG_KIND.name: "micro", names.TAG_STATUS.name: "ok"}
        tags |= {names.TAG_JOURNAL_ID.name: _journal_id(hour := next(hours), number)}
        metrics = {names.KERNEL_US.of("mlp_1_dual_triton").name: 40.0 + number}
        _log(client, _create(client, experiment_id, hour, f"micro {number}", tags), {}, metrics, {})
    failed = RunConfig.parse({"model_name": "ttt-1b", "inner_net": "mlp_2_dual_triton", "batch": 8192})
    tags = {names.TAG_ENTRY_POINT.name: "main", names.TAG_KIND.name: "decode", names.TAG_STATUS.name: "oom"}
    tags |= {names.TAG_MESSAGE.name: "out of GPU memory: 8192 sequences need 212 GB"}
    tags |= {names.TAG_JOURNAL_ID.name: _journal_id(hour := next(hours), 0)}
    _log(client, _create(client, experiment_id, hour, failed.run_name, {}), _params(failed), {}, tags)
    foreign = client.create_run(experiment_id, run_name="somebody else's run", start_time=START_MS + 999 * HOUR_MS)
    client.log_metric(foreign.info.run_id, "loss", 0.25)
    client.set_terminated(foreign.info.run_id)
    mark_best_of(client, client.search_runs([experiment_id]))


def configs(mode: str, **more: Any) -> Iterator[RunConfig]:
    for (model, net, _), batch in product(MODELS, BATCHES):
        given = {"model_name": model, "inner_net": net, "batch": batch, "mode": mode, "dtype": "float16", **more}
        yield RunConfig.parse(given | ({"promptlen": 256 * (1 + batch % 5)} if mode == "prefill" else {}))


def log_run(
    client: MlflowClient, experiment_id: str, hour: int, config: RunConfig, number: int, parent: str | None = None
) -> str:
    speed = next(speed for model, net, speed in MODELS if (model, net) == (config.model_name, config.inner_net))
    speed *= (1 + 0.004 * (number * 37 % 11 - 5) / 5) * (1.2 if config.mode == "prefill" else 1)
    valid = number % 13 != 5
    rate = round(speed * 1000 * config.batch / (config.batch + 300) * (1 if valid else 0.8), 1)
    throughput = names.DECODE_TOKENS_PER_S if config.mode == "decode" else names.PREFILL_TOKENS_PER_S
    metrics = {throughput: rate, throughput.ci_low: round(rate * 0.998, 1), throughput.ci_high: round(rate * 1.002, 1)}
    prefill_ms = round(1000 * config.batch * config.promptlen / rate / 50, 2)
    if config.mode == "decode":
        metrics |= {
            names.DECODE_STEP_MS_P50: round(1000 * config.batch / rate, 3),
            names.TIME_TO_FIRST_TOKEN_MS: prefill_ms + 1,
        }
    metrics |= {
        names.PREFILL_MS: prefill_ms,
        names.RELATIVE_HALF_WIDTH_PCT: round(0.12 + 0.03 * (number % 7), 3) if valid else 4.2,
        names.ROOFLINE_PCT: round((60 + speed / 20) * config.batch / (config.batch + 60), 1),
        names.PEAK_MEMORY_ALLOCATED_GB: round(2.6 + 0.4 * config.batch / speed, 3),
        names.DEVICE_MEMORY_USED_GB: round(3.4 + 0.42 * config.batch / speed, 3),
        names.JOULES_PER_TOKEN: float(f"{650 / rate:.4g}"),
        names.POWER_W_MEAN: round(300 + (300 + speed / 4) * config.batch / (config.batch + 200), 1),
        names.SM_CLOCK_MHZ_MEAN: 1980.0 if valid else 1410.0,
        names.TEMPERATURE_C_MAX: float(40 + number % 20),
        names.DRIFT_PCT: round(0.05 * (number % 5), 3),
        names.MODEL_PARAMETERS: 1_340_000_000.0,
    }
    tags = {
        names.TAG_STATUS: "ok",
        names.TAG_VERDICT: "valid" if valid else "invalid",
        names.TAG_ENTRY_POINT: config.entry_point,
        names.TAG_KIND: config.kind,
        names.TAG_CONFIG_ID: config.config_id(),
        names.TAG_GPU_NAME: "NVIDIA H200",
        names.TAG_JOURNAL_ID: _journal_id(hour, number),
    } | ({} if valid else {names.TAG_REASONS: REASONS[number % len(REASONS)]})
    nested = {} if parent is None else {MLFLOW_PARENT_RUN_ID: parent}
    run_id = _create(client, experiment_id, hour, config.run_name, nested)
    values = {metric.name: value for metric, value in metrics.items()}
    _log(client, run_id, _params(config), values, {tag.name: value for tag, value in tags.items()})
    return run_id


def _journal_id(hour: int, number: int) -> str:
    began = datetime.fromtimestamp((START_MS + hour * HOUR_MS) / 1e3, UTC)
    return f"{began:%Y%m%d-%H%M%S}-{number:08x}"


def _params(config: RunConfig) -> dict[str, str]:
    return {name: text for name, text in config.as_params().items() if (name, text) != ("inner_net", "auto")}


def _create(client: MlflowClient, experiment_id: str, hour: int, name: str, tags: dict[str, str]) -> str:
    created = client.create_run(experiment_id, START_MS + hour * HOUR_MS, {**tags, "mlflow.user": "someone"}, name)
    return str(created.info.run_id)


def _log(
    client: MlflowClient, run_id: str, params: dict[str, str], metrics: dict[str, float], tags: dict[str, str]
) -> None:
    """Write it as publishing does, with what the parameters determine."""
    metrics = metrics | missing_metrics(tags.get(names.TAG_KIND.name, ""), params, metrics)
    tags = tags | (missing_tags(params, tags) if tags else {})
    client.log_batch(
        run_id,
        [Metric(name, value, START_MS, 0) for name, value in metrics.items()],
        [Param(name, value) for name, value in params.items()],
        [RunTag(name, value) for name, value in tags.items()],
    )
    client.set_terminated(run_id)


def _profiled(client: MlflowClient, run_id: str, number: int) -> None:
    """A table of kernels, and the time of each part."""
    us = [round(30 + 11 * index + 4 * number, 1) for index in range(len(PARTS))]
    table = {
        "kernel": [f"{part.replace(' ', '_')}_kernel" for part in PARTS],
        "us_per_step": us,
        "share_pct": [round(100 * one / sum(us), 2) for one in us],
        "calls": [24] * len(PARTS),
        "part": list(PARTS),
    }
    client.log_table(run_id, table, names.ARTIFACT_KERNELS.path)
    for part, value in zip(PARTS, us, strict=True):
        client.log_metric(run_id, names.PART_US.of(part).name, value)

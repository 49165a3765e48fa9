"""Runs on one NVIDIA H200 as records: the figures of benchmarks/results/2026-11-24-h200/decode-4.txt, commit 597ec48.

One cell more, TTT-MLP at batch 8192, did not fit (2026-11-23-h200/decode-2.txt).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.catalog import metrics, tags
from ttt_mlflow.config import RunConfig
from ttt_mlflow.names import DECODE_TOKENS_PER_S
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import RunRow, local_row

THROUGHPUT = DECODE_TOKENS_PER_S
GPU = "NVIDIA H200"
COMMIT = "597ec48"
LINEAR, MLP, MAMBA = "mlp_1_dual_triton", "mlp_2_dual_triton", None
# inner net, batch: tokens/s and its confidence interval, step p50 and p99 in ms, peak GB, J per token, verdict
MEASURED: dict[tuple[str | None, int], tuple[float | str | None, ...]] = {
    (MAMBA, 1024): (67344, 67257, 67401, 14.89, 17.46, 11.63, 0.01035, "valid"),
    (LINEAR, 128): (67641, 67634, 67646, 1.877, 2.184, 4.09, None, "valid"),
    (LINEAR, 1024): (131109, 130799, 131308, 7.662, 10.33, 13.44, 0.005245, "valid"),
    (LINEAR, 8192): (139837, 139418, 140257, 57.39, 77.86, 88.27, 0.004966, "unjudged"),
    (MLP, 128): (33412, 33393, 33419, 3.696, 6.096, 11.43, 0.02018, "valid"),
    (MLP, 1024): (46712, 46675, 46726, 20.91, 42.84, 71.87, 0.0149, "valid"),
    (MLP, 2048): (47378, 47307, 47432, 41.04, 82.51, 140.9, 0.01467, "unjudged"),
}
NAMES = (
    *("decode_tokens_per_s", "decode_tokens_per_s_ci_low", "decode_tokens_per_s_ci_high", "decode_step_ms_p50"),
    *("decode_step_ms_p99", "peak_memory_allocated_gb", "joules_per_token"),
)


def record(
    root: Path, values: dict[str, float], status: str = "ok", told: dict[str, str] | None = None, **asked: Any
) -> Journal:
    """A record in ``root``. values: metrics. told: further tags, ``ttt.verdict`` among them. asked: parameters."""
    chosen = {"inner_net": LINEAR, "dtype": "float16", "use_compile": True, "cuda_graph": True, "promptlen": 1}
    config = RunConfig.parse({**chosen, **asked})
    journal = Journal.create(root, config.model_dump(mode="json"))
    journal.set_used(config.model_dump(mode="json"))
    params = config.as_params()
    journal.update_params({name: text for name, text in params.items() if (name, text) != ("inner_net", "auto")})
    journal.update_metrics(metrics(values))
    own = {"ttt.kind": config.kind, "ttt.gpu_name": GPU, "mlflow.source.git.commit": COMMIT, "ttt.status": status}
    journal.update_tags(tags({**own, **(told or {})}))
    journal.set_status(status)
    return journal


def row(
    root: Path, values: dict[str, float], status: str = "ok", told: dict[str, str] | None = None, **asked: Any
) -> RunRow:
    """The same as a row."""
    return local_row(LocalRun(record(root, values, status, told, **asked)))


def model_of(inner_net: str | None) -> dict[str, Any]:
    if inner_net is None:  # Mamba decodes through its own code, which is not compiled
        return {"model_name": "state-spaces/mamba-1.4b", "inner_net": None, "use_compile": False}
    return {"model_name": "ttt-1b", "inner_net": inner_net}


def records(root: Path) -> list[Journal]:
    """The records of all runs, in ``root``."""
    made = []
    for (inner_net, batch), (*values, verdict) in MEASURED.items():
        known = {name: float(value) for name, value in zip(NAMES, values, strict=True) if value is not None}
        told = {"ttt.verdict": str(verdict)} | ({"ttt.missing": "drift"} if verdict == "unjudged" else {})
        made.append(record(root, known, told=told, batch=batch, genlen=128, **model_of(inner_net)))
    message = "CUDA out of memory"
    made.append(record(root, {}, "oom", {"ttt.message": message}, batch=8192, genlen=128, **model_of(MLP)))
    return made


def rows(root: Path) -> Sequence[RunRow]:
    return [local_row(LocalRun(journal)) for journal in records(root)]

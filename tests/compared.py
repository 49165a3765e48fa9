"""Records of runs to compare, without measuring: what a run leaves behind, with the numbers that a test asks for."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.catalog import metrics, tags
from ttt_mlflow import names
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.micro_results import CellResult, MicroResults
from ttt_mlflow.record.recorded_run import LocalRun

H200 = {"gpu_name": "NVIDIA H200", "gpu_uuid": "GPU-1", "driver": "580.159.04", "torch": "2.11.0", "triton": "3.6.0"}
CPU = {"cpu_model": "a CPU", "hostname": "here", "torch": "2.11.0"}
USED = {"inner_net": "mlp_1_dual_triton", "dtype": "float16", "use_compile": True, "cuda_graph": True, "device": "cuda"}


def passes_around(tokens_per_s: float, scatter_pct: float = 0.02, count: int = 8, seed: int = 0) -> list[float]:
    """Throughputs of passes that scatter around ``tokens_per_s``."""
    rng = random.Random(seed)
    return [tokens_per_s * (1 + rng.gauss(0, scatter_pct / 100)) for _ in range(count)]


def recorded(
    root: Path,
    tokens_per_s: Sequence[float],
    *,
    config: Mapping[str, Any] | None = None,
    host: Mapping[str, Any] = H200,
    values: Mapping[str, float] | None = None,
    tag: Mapping[str, str] | None = None,
    status: str = "ok",
    ended_ms: Sequence[int] | None = None,
) -> LocalRun:
    """A decode or prefill run with these passes. ``config``, ``values``, ``tag``: what is not the default.

    ended_ms: when each pass ended, in ms since 1970; None as of a version that did not record it.
    """
    used = RunConfig.parse({"batch": 128, "genlen": 128, **USED, **(config or {})})
    journal = Journal.create(root, used.model_dump(mode="json"))
    journal.set_used(used.model_dump(mode="json"))
    journal.update_params(used.model_dump(exclude={"attn_impl", "nsys_args", "checkpoint"}))
    tokens = used.batch * (used.genlen if used.mode == "decode" else used.promptlen)
    timed = {
        "tokens_per_pass": tokens,
        "repeat_total_ms": [1e3 * tokens / rate for rate in tokens_per_s],
        "repeat_complete": [True] * len(tokens_per_s),
    }
    if ended_ms is not None:
        timed |= {"repeat_ended_ms": list(ended_ms), "repeat_wall_ms": timed["repeat_total_ms"]}
    if tokens_per_s:
        journal.write_artifact(names.ARTIFACT_PASSES, json.dumps(timed))
        journal.update_metrics(metrics({"decode_tokens_per_s": sorted(tokens_per_s)[len(tokens_per_s) // 2]}))
    journal.write_artifact(names.ARTIFACT_HOST, json.dumps(dict(host)))
    journal.update_metrics(metrics(values or {}))
    journal.update_tags(
        tags(
            {
                "ttt.verdict": "valid",
                "ttt.kind": used.kind,
                "ttt.entry_point": used.entry_point,
                "ttt.method": "1",
                "ttt.config_id": used.config_id(),
                "ttt.journal_id": journal.journal_id,
                "ttt.status": status,
                **(tag or {}),
            }
        )
    )
    journal.set_status(status, None if status == "ok" else "of a test", exit_code=0)
    return LocalRun(journal)


def recorded_micro(
    root: Path,
    us: Mapping[tuple[str, int], Sequence[float]],
    host: Mapping[str, Any] = H200,
    config: Mapping[str, Any] | None = None,
) -> LocalRun:
    """A micro-benchmark with these samples in µs, by kernel and batch. ``config``: what is not the default."""
    kernels, batches = dict.fromkeys(kernel for kernel, _ in us), dict.fromkeys(batch for _, batch in us)
    asked = {"kernels": tuple(kernels), "batches": tuple(batches), "device": "cuda", **(config or {})}
    used = MicroConfig.parse(asked)
    journal = Journal.create(root, used.model_dump(mode="json"), used.entry_point)
    journal.set_used(used.model_dump(mode="json"))
    journal.update_params(used.model_dump(exclude={"nsys_args"}))
    results = MicroResults(
        config=used.as_params(),
        device_name=str(host.get("gpu_name", "cpu")),
        cells=[
            CellResult(kernel=kernel, batch=batch, floor_bytes=1e6, us=list(samples), verdict="valid")
            for (kernel, batch), samples in us.items()
        ],
    )
    journal.write_artifact(names.ARTIFACT_MICRO_SAMPLES, results.model_dump_json())
    journal.write_artifact(names.ARTIFACT_HOST, json.dumps(dict(host)))
    kinds = {"ttt.kind": "micro", "ttt.entry_point": "micro", "ttt.config_id": used.config_id(), "ttt.verdict": "valid"}
    journal.update_tags(tags({**kinds, "ttt.method": "1", "ttt.status": "ok"}))
    journal.set_status("ok", exit_code=0)
    return LocalRun(journal)

"""The summary of one run: the MLflow run's description, and the summary in the terminal.

Both only show what is in the journal. A value that was not measured has no line.
"""

import json
from collections.abc import Mapping
from typing import Any

from ttt_mlflow import names
from ttt_mlflow.measurement.verdict import verdict_text
from ttt_mlflow.names import (
    CLOCK_EVENT_PCT,
    CLOCK_EVENT_REASONS,
    VIOLATION_POLICIES,
    VIOLATION_S,
    Estimate,
    Metric,
    Throughput,
)
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.report.description import again_markdown, headline_markdown
from ttt_mlflow.report.text import escaped, number

MetricValues = Mapping[str, float]  # by name, as in a record
Status = Mapping[str, Any]  # status, message: as in a record's status.json

THROUGHPUTS: dict[str, Throughput] = {
    "decode": names.DECODE_TOKENS_PER_S,
    "prefill": names.PREFILL_TOKENS_PER_S,
    "generation": names.GENERATION_TOKENS_PER_S,
}

# value of a tag -> its text in the summary
WARMUP_ENDED = {
    "settled": "settled",
    "count": "as many as requested",
    "most_passes": "not settled: maximum number of passes reached",
    "time_share": "not settled: time limit reached",
}
PASSES_ENDED = {
    "interval": "stopped by the confidence interval",
    "max_seconds": "stopped by max_seconds",
    "count": "as many as requested",
    "interrupted": "interrupted",
}

# rows that list several metrics: label -> metric -> its text
LISTED: dict[str, dict[Metric, str]] = {
    "decode step": {
        names.DECODE_STEP_MS_P50: "{} ms p50",
        names.DECODE_STEP_MS_P90: "{} p90",
        names.DECODE_STEP_MS_P99: "{} p99",
        names.DECODE_STEP_MS_MEAN: "{} mean",
    },
    "roofline": {
        names.ROOFLINE_PCT: "{} % of it",
        names.ROOFLINE_MS: "roofline time {} ms",
        names.MIN_BYTES_PER_STEP: "{} bytes per step",
        names.FLOPS_PER_STEP: "{} FLOP per step",
    },
    "memory": {
        names.PEAK_MEMORY_ALLOCATED_GB: "peak {} GB allocated",
        names.PEAK_MEMORY_RESERVED_GB: "{} GB reserved",
        names.DEVICE_MEMORY_USED_GB: "{} GB used on the device",
    },
    "power": {
        names.POWER_W_MEAN: "{} W",
        names.ENERGY_J: "{} J",
        names.JOULES_PER_TOKEN: "{} J per token",
        names.TEMPERATURE_C_MAX: "{} °C at most",
        names.GPU_UTILIZATION_PCT_MEAN: "GPU {} % busy",
    },
    "utilization": {
        names.SM_ACTIVE_PCT_MEAN: "SMs {} %",
        names.TENSOR_ACTIVE_PCT_MEAN: "tensor cores {} %",
        names.DRAM_BANDWIDTH_PCT_MEAN: "DRAM bandwidth {} %",
    },
    "neighbors": {
        names.NEIGHBOR_GPUS_BUSY: "{} of the host's other GPUs busy",
        names.NEIGHBOR_POWER_W: "{} W",
    },
    "overhead": {
        names.IMPORTS_S: "imports {} s",
        names.SETUP_S: "build {} s",
        names.COMPILE_S: "compilation {} s",
        names.WARMUP_S: "warm-up {} s",
        names.PROFILE_S: "profilers {} s",
        names.RECORDING_S: "recording {} s",
    },
    "memory errors": {
        names.ECC_UNCORRECTED_ERRORS: "{} uncorrected",
    },
    "profiled": {
        names.PROFILED_STEP_MS: "{} ms per step",
        names.GPU_IDLE_PCT: "GPU idle {} %",
        names.LAUNCH_GAP_US_MEAN: "{} µs between kernels",
        names.HOST_MS_PER_STEP: "{} ms per step on the host",
    },
    "accuracy": {
        names.ACCURACY_DIFFERING_TOKENS_PCT: "{} % of the greedy tokens differ from float32",
        names.ACCURACY_LOGITS_ERROR: "logits' error {}",
        names.ACCURACY_TOTAL_VARIATION: "total variation {}",
        names.ACCURACY_PARTED_SEQUENCES_PCT: "{} % of the free-running sequences part from float32's",
        names.ACCURACY_FIRST_DIFFERENCE: "the first at token {}",
        names.ACCURACY_SEQUENCES: "{} sequences",
        names.ACCURACY_POSITIONS: "{} positions each",
    },
    "plain PyTorch": {
        names.ACCURACY_YARDSTICK_DIFFERING_TOKENS_PCT: "{} % of the greedy tokens differ from float32",
        names.ACCURACY_YARDSTICK_LOGITS_ERROR: "logits' error {}",
        names.ACCURACY_YARDSTICK_TOTAL_VARIATION: "total variation {}",
        names.ACCURACY_YARDSTICK_PARTED_SEQUENCES_PCT: "{} % of the free-running sequences part from float32's",
        names.ACCURACY_YARDSTICK_FIRST_DIFFERENCE: "the first at token {}",
    },
    "eager decode": {
        names.ACCURACY_EAGER_DIFFERING_TOKENS_PCT: "{} % of the free-running tokens are others",
    },
    "model": {
        names.MODEL_PARAMETERS: "{} parameters",
    },
}


def summary_markdown(journal: Journal, status: Status | None = None) -> str:
    """The MLflow run's description: headline, how to measure it again, then everything as one Markdown table.

    ``status``: what the status is about to be, if it is not in the record yet.
    """
    status = status or journal.status
    failed = [("status", status_text(status))] if status["status"] != "ok" else []
    rows = [
        *failed,
        *verdict_row(journal),
        *_configuration(journal),
        *_results(journal),
        *host_row(journal),
    ]
    table = [f"| {label} | {escaped(text)} |" for label, text in rows]
    title = f"**{escaped(journal.run_name)}**"
    before = [*headline_markdown(journal), *again_markdown(journal)]
    if failed:
        before = [f"**{escaped(status_text(status))}**", "", *before]
    return "\n".join([*before, title, "", "| | |", "| --- | --- |", *table, ""])


def summary_text(journal: Journal, record_at: str) -> str:
    """The short summary for the terminal. ``record_at``: the location of the record."""
    rows = [*verdict_row(journal), *_configuration(journal), *_results(journal)]
    if journal.status["status"] != "ok":
        rows.insert(0, ("status", status_text(journal.status)))
    rows.append(("record", record_at))
    width = max(len(label) for label, _ in rows)
    return "\n".join([journal.run_name, *(f"  {label:<{width}}  {text}" for label, text in rows)])


def throughput(metrics: MetricValues, mode: str) -> str | None:
    """The median throughput and its 95 % confidence interval, for example ``66,787 [66,500, 67,010]`` tokens/s."""
    metric = THROUGHPUTS[mode]
    if metric.name not in metrics:
        return None
    return " ".join([number(metrics[metric.name]), *_interval(metrics, metric)])


def status_text(status: Status) -> str:
    return f"{status['status']}: {status['message']}" if status["message"] else str(status["status"])


def verdict_row(journal: Journal) -> list[tuple[str, str]]:
    """The verdict with its reasons and notes."""
    path = journal.artifacts / names.ARTIFACT_VERDICT.path
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    return [("verdict", ". ".join([verdict_text(record), *record["notes"]]))]


def _configuration(journal: Journal) -> list[tuple[str, str]]:
    config = journal.settings
    parts = [str(config[name]) for name in ("device", "dtype") if config.get(name)]
    if attention := journal.params.get("attn_impl"):
        parts.append(f"attention {attention}")
    for name, label in (("use_compile", "torch.compile"), ("cuda_graph", "CUDA graph")):
        if config.get(name) is not None:
            parts.append(f"{label} {'on' if config[name] else 'off'}")
    parts.append(f"weights {config['checkpoint']}" if config.get("checkpoint") else f"seed {config.get('seed')}")
    return [("configuration", ", ".join(parts))]


def _results(journal: Journal) -> list[tuple[str, str]]:
    metrics, mode = journal.metrics, journal.settings.get("mode")
    spread = _present(metrics, {names.RELATIVE_SPREAD_PCT: "coefficient of variation {} %"})
    prompt = _present(metrics, {names.PREFILL_MS: "{} ms", names.TIME_TO_FIRST_TOKEN_MS: "first token after {} ms"})
    decode, prefill = _throughput_parts(metrics, "decode"), _throughput_parts(metrics, "prefill")
    rows = [
        ("decode", ", ".join(decode + spread if mode == "decode" else decode)),
        _listed(metrics, "decode step"),
        ("prefill", ", ".join((prefill + spread if mode == "prefill" else prefill) + prompt)),
        ("passes", _passes_row(metrics, journal.tags)),
        ("drift", _drift_row(metrics)),
        ("prompt and decode", ", ".join(_throughput_parts(metrics, "generation"))),
        _listed(metrics, "roofline"),
        _listed(metrics, "memory"),
        ("clocks", _clocks_row(metrics)),
        _listed(metrics, "power"),
        _listed(metrics, "utilization"),
        _listed(metrics, "neighbors"),
        ("clock events", _clock_events_row(metrics)),
        ("clocks held down", _violations_row(metrics)),
        _listed(metrics, "memory errors"),
        _listed(metrics, "profiled"),
        _listed(metrics, "accuracy"),
        _listed(metrics, "plain PyTorch"),
        ("against it", _ratio_row(metrics)),
        _listed(metrics, "eager decode"),
        _listed(metrics, "overhead"),
        _listed(metrics, "model"),
    ]
    return [(label, text) for label, text in rows if text]


def _listed(metrics: MetricValues, label: str) -> tuple[str, str]:
    """The row ``label`` of :data:`LISTED`, with the metrics that were measured."""
    return label, ", ".join(_present(metrics, LISTED[label]))


def _throughput_parts(metrics: MetricValues, mode: str) -> list[str]:
    metric = THROUGHPUTS[mode]
    parts = _present(metrics, {metric: "{} tokens/s"})
    return parts + [f"95 % confidence interval {interval}" for interval in _interval(metrics, metric)]


def _passes_row(metrics: MetricValues, tags: Mapping[str, str]) -> str:
    """The length of the measurement and why it ended: ``7 timed, stopped by the confidence interval, …``."""
    parts = _present(metrics, {names.MEASURED_PASSES: "{} timed"})
    parts += _words(PASSES_ENDED, tags.get(names.TAG_STOP_REASON.name)) if parts else []
    parts += _present(metrics, {names.RELATIVE_HALF_WIDTH_PCT: "confidence interval ±{} %"})
    parts += _present(metrics, {names.ATTEMPTS: "attempt {}"})
    warmup = _present(metrics, {names.WARMUP_PASSES: "{} warm-up passes"})
    if warmup:
        warmup += _words(WARMUP_ENDED, tags.get(names.TAG_WARMUP_STOP_REASON.name))
    return ", ".join(parts + warmup)


def _ratio_row(metrics: MetricValues) -> str:
    """How often greedy tokens differ from float32, in comparison with plain PyTorch's."""
    ratio = _present(metrics, {names.ACCURACY_RATIO: "tokens differ {} times as often"})
    return ", ".join(
        ratio + [f"95 % confidence interval {interval}" for interval in _interval(metrics, names.ACCURACY_RATIO)]
    )


def _words(meanings: Mapping[str, str], reason: str | None) -> list[str]:
    return [] if reason is None else [meanings.get(reason, reason)]


def _drift_row(metrics: MetricValues) -> str:
    """Drift from the first third to the last, if it was tested; without a p-value, of few passes, from the first."""
    first = "first third of the passes" if names.DRIFT_P_VALUE.name in metrics else "first pass"
    across = _present(metrics, {names.DRIFT_PCT: f"{{}} % from the {first} to the last"})
    across += _present(metrics, {names.DRIFT_P_VALUE: "(p {})"})
    within = _present(metrics, {names.DRIFT_WITHIN_PASS_PCT: "{} % within a pass"})
    within += _present(metrics, {names.DRIFT_WITHIN_PASS_P_VALUE: "(p {})"})
    return ", ".join(" ".join(parts) for parts in (across, within) if parts)


def _clocks_row(metrics: MetricValues) -> str:
    sm = _present(metrics, {names.SM_CLOCK_MHZ_MEAN: "SM {} MHz"})
    low, high = metrics.get(names.SM_CLOCK_MHZ_MIN.name), metrics.get(names.SM_CLOCK_MHZ_MAX.name)
    if sm and low is not None and high is not None:
        sm = [f"{sm[0]} ({number(low)} to {number(high)})"]
    return ", ".join([*sm, *_present(metrics, {names.MEMORY_CLOCK_MHZ_MEAN: "memory {} MHz"})])


def _clock_events_row(metrics: MetricValues) -> str:
    shares = {reason: metrics.get(CLOCK_EVENT_PCT[reason].name) for reason in CLOCK_EVENT_REASONS}
    named = [f"{reason} {number(share)} %" for reason, share in shares.items() if share]
    if named:
        return ", ".join(named)
    return "none" if any(share is not None for share in shares.values()) else ""


def _violations_row(metrics: MetricValues) -> str:
    seconds = {policy: metrics.get(VIOLATION_S[policy].name) for policy in VIOLATION_POLICIES}
    named = [f"{policy} {number(held)} s" for policy, held in seconds.items() if held]
    if named:
        return ", ".join(named)
    return "never" if any(held is not None for held in seconds.values()) else ""


def host_row(journal: Journal) -> list[tuple[str, str]]:
    labels = {
        names.TAG_HOST: "{}",
        names.TAG_GPU_NAME: "{}",
        names.TAG_DRIVER: "driver {}",
        names.TAG_TORCH: "torch {}",
        names.TAG_TRITON: "triton {}",
    }
    tags = journal.tags
    parts = [label.format(tags[tag.name]) for tag, label in labels.items() if tags.get(tag.name)]
    return [("host", ", ".join(parts))] if parts else []


def _interval(metrics: MetricValues, metric: Estimate) -> list[str]:
    """``[low, high]`` of ``metric`` as a list of one text; empty if it was not measured."""
    low, high = metrics.get(metric.ci_low.name), metrics.get(metric.ci_high.name)
    return [] if low is None or high is None else [f"[{number(low)}, {number(high)}]"]


def _present(metrics: MetricValues, templates: Mapping[Metric, str]) -> list[str]:
    """The filled-in templates of those metrics that were measured."""
    return [text.format(number(metrics[metric.name])) for metric, text in templates.items() if metric.name in metrics]

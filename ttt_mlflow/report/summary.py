"""What one run measured, for a person: the MLflow run's description and the terminal's last words.

Both show what is in the journal and nothing else: a value that was not measured has no line.
"""

import json
from collections.abc import Mapping

from ttt_mlflow.measurement.verdict import verdict_text
from ttt_mlflow.names import CLOCK_EVENT_REASONS, VIOLATION_POLICIES, clock_event_metric, violation_metric
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.report.text import escaped, number

Metrics = Mapping[str, float]

# tag's value -> the same for people
WARMUP_ENDED = {
    "settled": "settled",
    "count": "as many as asked for",
    "most_passes": "not settled: most passes done",
    "time_share": "not settled: its share of the time used up",
}
REPEATS_ENDED = {
    "interval": "ended by the interval",
    "max_seconds": "ended by max_seconds",
    "count": "as many as asked for",
    "interrupted": "interrupted",
}

# rows that list metrics one after the other: label -> metric -> the same in words
LISTED = {
    "decode step": {
        "decode_step_ms_p50": "{} ms p50",
        "decode_step_ms_p90": "{} p90",
        "decode_step_ms_p99": "{} p99",
        "decode_step_ms_mean": "{} mean",
    },
    "roofline": {
        "roofline_pct": "{} % of it",
        "roofline_ms": "floor {} ms",
        "min_bytes_per_step": "{} bytes a step",
        "flops_per_step": "{} FLOP a step",
    },
    "memory": {
        "peak_memory_allocated_gb": "peak {} GB allocated",
        "peak_memory_reserved_gb": "{} GB reserved",
        "device_memory_used_gb": "{} GB used on the device",
    },
    "power": {
        "power_w_mean": "{} W",
        "energy_j": "{} J",
        "joules_per_token": "{} J a token",
        "temperature_c_max": "{} °C at most",
        "gpu_utilization_pct_mean": "GPU {} % busy",
    },
    "utilisation": {
        "sm_active_pct_mean": "SMs {} %",
        "tensor_active_pct_mean": "tensor cores {} %",
        "dram_bandwidth_pct_mean": "DRAM bandwidth {} %",
    },
    "overhead": {
        "imports_s": "imports {} s",
        "setup_s": "build {} s",
        "compile_s": "compilation {} s",
        "warmup_s": "warm-up {} s",
        "profile_s": "profilers {} s",
        "recording_s": "recording {} s",
    },
    "memory errors": {
        "ecc_uncorrected_errors": "{} uncorrected",
    },
    "profiled": {
        "profiled_step_ms": "{} ms a step",
        "gpu_idle_pct": "GPU idle {} %",
        "launch_gap_us_mean": "{} µs between kernels",
        "host_ms_per_step": "{} ms a step on the host",
    },
    "model": {
        "model_parameters": "{} parameters",
    },
}


def summary_markdown(journal: Journal) -> str:
    """The MLflow run's description: configuration, results, host and status as one Markdown table."""
    rows = [
        ("status", status_text(journal)),
        *verdict_row(journal),
        *_configuration(journal),
        *_results(journal),
        *host_row(journal),
    ]
    table = [f"| {label} | {escaped(text)} |" for label, text in rows]
    return "\n".join([f"**{escaped(journal.run_name)}**", "", "| | |", "| --- | --- |", *table, ""])


def summary_text(journal: Journal, record_at: str) -> str:
    """The short summary for the terminal; ``record_at`` says where the record is."""
    rows = [*verdict_row(journal), *_configuration(journal), *_results(journal)]
    if journal.status["status"] != "ok":
        rows.insert(0, ("status", status_text(journal)))
    rows.append(("record", record_at))
    width = max(len(label) for label, _ in rows)
    return "\n".join([journal.run_name, *(f"  {label:<{width}}  {text}" for label, text in rows)])


def throughput(metrics: Metrics, mode: str) -> str | None:
    """For example ``66,787 [66,500, 67,010]``: tokens/s of ``mode`` and the 95 % interval of its median."""
    name = f"{mode}_tokens_per_s"
    if name not in metrics:
        return None
    return " ".join([number(metrics[name]), *_interval(metrics, name)])


def status_text(journal: Journal) -> str:
    status = journal.status
    return f"{status['status']}: {status['message']}" if status["message"] else str(status["status"])


def verdict_row(journal: Journal) -> list[tuple[str, str]]:
    """The verdict with its reasons, and what is worth knowing besides."""
    path = journal.artifacts / "verdict.json"
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    return [("verdict", ". ".join([verdict_text(record), *record["notes"]]))]


def _configuration(journal: Journal) -> list[tuple[str, str]]:
    config = journal.settings
    parts = [str(config[name]) for name in ("device", "dtype") if config.get(name)]
    for name, label in (("use_compile", "torch.compile"), ("cuda_graph", "CUDA graph")):
        if config.get(name) is not None:
            parts.append(f"{label} {'on' if config[name] else 'off'}")
    parts.append(f"weights {config['checkpoint']}" if config.get("checkpoint") else f"seed {config.get('seed')}")
    return [("configuration", ", ".join(parts))]


def _results(journal: Journal) -> list[tuple[str, str]]:
    metrics, mode = journal.metrics, journal.settings.get("mode")
    spread = _present(metrics, relative_spread_pct="spread {} %")
    prompt = _present(metrics, prefill_ms="{} ms", time_to_first_token_ms="first token after {} ms")
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
        _listed(metrics, "utilisation"),
        ("clock events", _clock_events_row(metrics)),
        ("clocks held down", _violations_row(metrics)),
        _listed(metrics, "memory errors"),
        _listed(metrics, "profiled"),
        _listed(metrics, "overhead"),
        _listed(metrics, "model"),
    ]
    return [(label, text) for label, text in rows if text]


def _listed(metrics: Metrics, label: str) -> tuple[str, str]:
    """A row of :data:`LISTED`: what was measured of it."""
    return label, ", ".join(_present(metrics, **LISTED[label]))


def _throughput_parts(metrics: Metrics, mode: str) -> list[str]:
    name = f"{mode}_tokens_per_s"
    parts = _present(metrics, **{name: "{} tokens/s"})
    return parts + [f"95 % interval {interval}" for interval in _interval(metrics, name)]


def _passes_row(metrics: Metrics, tags: Mapping[str, str]) -> str:
    """How much was measured, and why not more: ``7 timed, ended by the interval, interval ±0.3 %, …``."""
    parts = _present(metrics, measured_passes="{} timed")
    parts += _words(REPEATS_ENDED, tags.get("ttt.stop_reason")) if parts else []
    parts += _present(metrics, relative_half_width_pct="interval ±{} %")
    parts += _present(metrics, attempts="attempt {}")
    warmup = _present(metrics, warmup_passes="{} to warm up")
    return ", ".join(parts + warmup + (_words(WARMUP_ENDED, tags.get("ttt.warmup_stop_reason")) if warmup else []))


def _words(meanings: Mapping[str, str], reason: str | None) -> list[str]:
    return [] if reason is None else [meanings.get(reason, reason)]


def _drift_row(metrics: Metrics) -> str:
    """The first third against the last, where it was tested."""
    across = _present(metrics, drift_pct="{} % from the first third of the passes to the last")
    across += _present(metrics, drift_p_value="(p {})")
    within = _present(metrics, drift_within_pass_pct="{} % within a pass")
    within += _present(metrics, drift_within_pass_p_value="(p {})")
    return ", ".join(" ".join(parts) for parts in (across, within) if parts)


def _clocks_row(metrics: Metrics) -> str:
    sm = _present(metrics, sm_clock_mhz_mean="SM {} MHz")
    if sm and "sm_clock_mhz_min" in metrics and "sm_clock_mhz_max" in metrics:
        sm = [f"{sm[0]} ({number(metrics['sm_clock_mhz_min'])} to {number(metrics['sm_clock_mhz_max'])})"]
    return ", ".join([*sm, *_present(metrics, memory_clock_mhz_mean="memory {} MHz")])


def _clock_events_row(metrics: Metrics) -> str:
    shares = {reason: metrics.get(clock_event_metric(reason)) for reason in CLOCK_EVENT_REASONS}
    named = [f"{reason} {number(share)} %" for reason, share in shares.items() if share]
    if named:
        return ", ".join(named)
    return "none" if any(share is not None for share in shares.values()) else ""


def _violations_row(metrics: Metrics) -> str:
    seconds = {policy: metrics.get(violation_metric(policy)) for policy in VIOLATION_POLICIES}
    named = [f"{policy} {number(held)} s" for policy, held in seconds.items() if held]
    if named:
        return ", ".join(named)
    return "never" if any(held is not None for held in seconds.values()) else ""


def host_row(journal: Journal) -> list[tuple[str, str]]:
    labels = {
        "ttt.host": "{}",
        "ttt.gpu_name": "{}",
        "ttt.driver": "driver {}",
        "ttt.torch": "torch {}",
        "ttt.triton": "triton {}",
    }
    tags = journal.tags
    parts = [label.format(tags[name]) for name, label in labels.items() if tags.get(name)]
    return [("host", ", ".join(parts))] if parts else []


def _interval(metrics: Metrics, name: str) -> list[str]:
    """``[low, high]`` of the metric ``name`` if it was measured, as a list of one text."""
    low, high = metrics.get(f"{name}_ci_low"), metrics.get(f"{name}_ci_high")
    return [] if low is None or high is None else [f"[{number(low)}, {number(high)}]"]


def _present(metrics: Metrics, **templates: str) -> list[str]:
    """The templates of those metrics that were measured, filled in."""
    return [text.format(number(metrics[name])) for name, text in templates.items() if name in metrics]

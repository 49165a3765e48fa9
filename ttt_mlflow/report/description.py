"""The beginning of a run's page in MLflow: its headline, its verdict in words, and how to measure it again."""

import json
import shlex
from collections.abc import Mapping

from ttt_mlflow import names
from ttt_mlflow.config import CONFIGURATIONS, RunConfig
from ttt_mlflow.names import Throughput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun, read_object
from ttt_mlflow.report.text import escaped, number, printable

# name of a reason -> what it says about the run
REASONS = {
    "short_section": "too little time was measured",
    "wide_interval": "the confidence interval is too wide",
    "drift": "the throughput drifted",
    "hw_thermal_slowdown": "the GPU was slowed down by its temperature, in hardware",
    "sw_thermal_slowdown": "the GPU was slowed down by its temperature, by the driver",
    "hw_power_brake_slowdown": "the GPU was slowed down by its power supply",
    "hw_slowdown": "the GPU was slowed down by its hardware",
    "thermal_violation": "the clocks were held down by the temperature",
    "clock_drop": "the SM clock fell",
    "other_process": "another process computed on the GPU",
    "ecc_error": "memory errors were not corrected",
}
# name of what could not be judged -> what that is
UNCHECKED = {
    "gpu_telemetry": "the state of the GPU",
    "clock_events": "the clock events",
    "sm_clock": "the SM clock",
    "other_processes": "other processes on the GPU",
    "interval": "the confidence interval",
    "drift": "drift",
    "end": "the end of the measurement",
    "measurement": "the measurement",
}


def headline_markdown(journal: Journal) -> list[str]:
    """The throughput of a decode or prefill run, its verdict, its share of the roofline and its memory."""
    metrics, mode = journal.metrics, str(journal.settings.get("mode"))
    metric = names.PREFILL_TOKENS_PER_S if mode == "prefill" else names.DECODE_TOKENS_PER_S
    facts = [*verdict_markdown(journal)]
    share, peak = metrics.get(names.ROOFLINE_PCT.name), metrics.get(names.PEAK_MEMORY_ALLOCATED_GB.name)
    facts += [] if share is None else [f"{number(share)} % of the roofline"]
    facts += [] if peak is None else [f"peak memory {number(peak)} GB"]
    return [_throughput(metrics, metric, mode), "", *(f"- {fact}" for fact in facts), *([""] if facts else [])]


def verdict_markdown(journal: Journal) -> list[str]:
    """The verdict with its reasons in words, and what could not be checked; empty for a run without a verdict."""
    path = journal.artifacts / names.ARTIFACT_VERDICT.path
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    reasons = [f"{REASONS.get(one['name'], one['name'])} ({one['found']})" for one in record["reasons"]]
    unchecked = [f"{UNCHECKED.get(name, name)} ({why})" for name, why in record["missing"].items()]
    lines = [f"verdict **{record['verdict']}**{': ' if reasons else ''}{'; '.join(reasons)}"]
    lines += [f"not checked: {'; '.join(unchecked)}"] if unchecked else []
    return [escaped(line) for line in lines]


def again_markdown(journal: Journal) -> list[str]:
    """The commands that measure the same configuration, with what was not left at its default, and the commit."""
    kind = CONFIGURATIONS[journal.entry_point]
    defaults, asked = kind.parse({}).as_params(), kind.parse(journal.config["asked"]).as_params()
    given = {name: text for name, text in asked.items() if text != defaults[name]}
    entry, command = ("", "run") if kind is RunConfig else (f" -e {kind.entry_point}", kind.entry_point)
    project = "".join(f" -P {shlex.quote(printable(f'{name}={text}'))}" for name, text in given.items())
    options = "".join(f" --{name.replace('_', '-')} {shlex.quote(printable(text))}" for name, text in given.items())
    facts = read_object(LocalRun(journal), names.ARTIFACT_HOST)
    at = f" at commit {facts['git_commit']}" if facts.get("git_commit") else ""
    at += " with uncommitted changes" if at and facts.get("git_dirty") else ""
    lines = ["```bash", f"mlflow run .{entry}{project}", f"ttt-mlflow {command}{options}", "```"]
    return [f"To measure this again{at}:", "", *lines, ""]


def _throughput(metrics: Mapping[str, float], metric: Throughput, mode: str) -> str:
    value, width = metrics.get(metric.name), metrics.get(names.RELATIVE_HALF_WIDTH_PCT.name)
    low, high = metrics.get(metric.ci_low.name), metrics.get(metric.ci_high.name)
    if value is None:
        return f"**No {mode} throughput was measured.**"
    text = f"**{number(value)} tokens/s** {mode}"
    if low is not None and high is not None:
        text += f", 95 % confidence interval [{number(low)}, {number(high)}]"
        text += "" if width is None else f" (±{number(width)} %)"
    return text

"""One line for each run, for the terminal. Invalid runs are gray."""

from collections.abc import Iterable

from ttt_mlflow import names
from ttt_mlflow.config import MicroConfig, RunConfig, as_text
from ttt_mlflow.record.recorded_run import RecordedRun
from ttt_mlflow.report.summary import throughput
from ttt_mlflow.report.text import number, text_table

COLUMNS = (
    "model",
    "inner net",
    "mode",
    "batch",
    "prompt",
    "generated",
    "status",
    "verdict",
    "tokens/s [95 % confidence interval]",
    "ms/step",
    "peak memory GB",
)
NUMERIC = COLUMNS[3:6] + COLUMNS[8:]
MICRO_COLUMNS = ("micro-benchmark", "kernels", "batches", "heads", "dtype", "status", "verdict")


def table_text(runs: Iterable[RecordedRun]) -> str:
    """The table for a terminal (gray by ANSI codes). Lines are not wrapped to the terminal's width.

    Micro-benchmarks follow in a table of their own.
    """
    runs = list(runs)
    micro = [run for run in runs if run.entry_point == MicroConfig.entry_point]
    models = [run for run in runs if run.entry_point == RunConfig.entry_point]
    parts = []
    if models or not micro:
        rows = [table_row(run) for run in models]
        parts.append(text_table(COLUMNS, rows, NUMERIC, [is_invalid(run) for run in models]))
    if micro:
        rows = [micro_row(run) for run in micro]
        parts.append(text_table(MICRO_COLUMNS, rows, gray=[is_invalid(run) for run in micro]))
    return "\n\n".join(parts)


def is_invalid(run: RecordedRun) -> bool:
    """Whether the run is invalid. Its numbers are shown in gray."""
    return run.tags.get(names.TAG_VERDICT.name) == "invalid"


def verdict_cell(run: RecordedRun) -> str:
    """For example ``invalid: drift``; empty for a run without a verdict."""
    verdict, reasons = run.tags.get(names.TAG_VERDICT.name), run.tags.get(names.TAG_REASONS.name, "")
    return ": ".join(filter(None, [verdict, reasons.replace(",", ", ")]))


def table_row(run: RecordedRun) -> tuple[str, ...]:
    """The cells of one run, in the order of :data:`COLUMNS`. The cell of a value that was not measured is empty."""
    config, metrics = run.settings, run.metrics
    decode = config["mode"] == "decode"
    step = metrics.get(names.DECODE_STEP_MS_P50.name) if decode else None
    peak = metrics.get(names.PEAK_MEMORY_ALLOCATED_GB.name)
    return (
        str(config["model_name"]),
        str(config.get("inner_net") or ""),
        str(config["mode"]),
        str(config["batch"]),
        str(config["promptlen"]),
        str(config["genlen"]) if decode else "",
        run.status,
        verdict_cell(run),
        throughput(metrics, str(config["mode"])) or "",
        "" if step is None else number(step),
        "" if peak is None else number(peak),
    )


def micro_row(run: RecordedRun) -> tuple[str, ...]:
    """The cells of one micro-benchmark, in the order of :data:`MICRO_COLUMNS`. Its results are in its record."""
    config = run.settings
    return (
        run.id,
        as_text(config["kernels"]),
        as_text(config["batches"]),
        f"{config['heads']} of {config['head_dim']}",
        str(config["dtype"]),
        run.status,
        verdict_cell(run),
    )

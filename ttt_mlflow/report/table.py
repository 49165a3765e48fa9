"""One line a run, for the terminal, the runs that were judged invalid in grey."""

from collections.abc import Iterable

from ttt_mlflow.config import MicroConfig, RunConfig, as_text
from ttt_mlflow.record.journal import Journal
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
    "tokens/s [95 % interval]",
    "ms/step",
    "peak memory GB",
)
NUMERIC = COLUMNS[3:6] + COLUMNS[8:]
MICRO_COLUMNS = ("micro-benchmark", "kernels", "batches", "heads", "dtype", "status", "verdict")


def table_text(journals: Iterable[Journal]) -> str:
    """The table for a terminal (greys by ANSI codes); lines are as long as their content, whatever its width.

    Micro-benchmarks, which measure something else, have a table of their own after it.
    """
    journals = list(journals)
    micro = [journal for journal in journals if journal.entry_point == MicroConfig.entry_point]
    runs = [journal for journal in journals if journal.entry_point == RunConfig.entry_point]
    parts = []
    if runs or not micro:
        parts.append(text_table(COLUMNS, [table_row(run) for run in runs], NUMERIC, [is_invalid(run) for run in runs]))
    if micro:
        rows = [micro_row(journal) for journal in micro]
        parts.append(text_table(MICRO_COLUMNS, rows, grey=[is_invalid(journal) for journal in micro]))
    return "\n\n".join(parts)


def is_invalid(journal: Journal) -> bool:
    """Whether the run's numbers are to be shown grey."""
    return journal.tags.get("ttt.verdict") == "invalid"


def verdict_cell(journal: Journal) -> str:
    """For example ``invalid: drift``; empty of a run that was not judged."""
    tags = journal.tags
    return ": ".join(filter(None, [tags.get("ttt.verdict"), tags.get("ttt.reasons", "").replace(",", ", ")]))


def table_row(journal: Journal) -> tuple[str, ...]:
    """One run's cells, in the order of :data:`COLUMNS`; what was not measured is an empty cell."""
    config, metrics = journal.settings, journal.metrics
    decode = config["mode"] == "decode"
    step = metrics.get("decode_step_ms_p50") if decode else None
    peak = metrics.get("peak_memory_allocated_gb")
    return (
        str(config["model_name"]),
        str(config.get("inner_net") or ""),
        str(config["mode"]),
        str(config["batch"]),
        str(config["promptlen"]),
        str(config["genlen"]) if decode else "",
        str(journal.status["status"]),
        verdict_cell(journal),
        throughput(metrics, str(config["mode"])) or "",
        "" if step is None else number(step),
        "" if peak is None else number(peak),
    )


def micro_row(journal: Journal) -> tuple[str, ...]:
    """One micro-benchmark's cells, in the order of :data:`MICRO_COLUMNS`; its own table is in its record."""
    config = journal.settings
    return (
        journal.journal_id,
        as_text(config["kernels"]),
        as_text(config["batches"]),
        f"{config['heads']} of {config['head_dim']}",
        str(config["dtype"]),
        str(journal.status["status"]),
        verdict_cell(journal),
    )

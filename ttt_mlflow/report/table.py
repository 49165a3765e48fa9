"""One line a run, for the end of a sweep: as text for the terminal and as Markdown."""

from collections.abc import Collection, Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ttt_mlflow.config import MicroConfig, RunConfig, as_text
from ttt_mlflow.report.summary import number, throughput
from ttt_mlflow.tracking.journal import Journal

COLUMNS = (
    "model",
    "inner net",
    "mode",
    "batch",
    "prompt",
    "generated",
    "status",
    "tokens/s [95 % interval]",
    "ms/step",
    "peak memory GB",
)
NUMERIC = COLUMNS[3:6] + COLUMNS[7:]
MICRO_COLUMNS = ("micro-benchmark", "kernels", "batches", "heads", "dtype", "status")


def table_text(journals: Iterable[Journal]) -> str:
    """The table for a terminal; lines are as long as their content, whatever the terminal's width.

    Micro-benchmarks, which measure something else, have a table of their own after it.
    """
    journals = list(journals)
    micro = [journal for journal in journals if journal.entry_point == MicroConfig.entry_point]
    runs = [journal for journal in journals if journal.entry_point == RunConfig.entry_point]
    parts = [text_table(COLUMNS, [table_row(journal) for journal in runs], NUMERIC)] if runs or not micro else []
    if micro:
        parts.append(text_table(MICRO_COLUMNS, [micro_row(journal) for journal in micro]))
    return "\n\n".join(parts)


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[str] = ()) -> str:
    """Rows for a terminal; ``numeric`` names the columns that stand to the right."""
    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=1000, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip())


def table_markdown(journals: Iterable[Journal]) -> str:
    """The table in Markdown, without the micro-benchmarks."""
    journals = [journal for journal in journals if journal.entry_point == RunConfig.entry_point]
    rules = ["---:" if column in NUMERIC else "---" for column in COLUMNS]
    rows = [COLUMNS, rules, *(table_row(journal) for journal in journals)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


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
    )

"""One line a run, for the end of a sweep: as text for the terminal and as Markdown."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

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


def table_text(journals: Iterable[Journal]) -> str:
    """The table for a terminal; lines are as long as their content, whatever the terminal's width."""
    table = Table(box=SIMPLE_HEAD)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMERIC else "left", no_wrap=True)
    for journal in journals:
        table.add_row(*table_row(journal))
    console = Console(width=1000, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip())


def table_markdown(journals: Iterable[Journal]) -> str:
    """The table in Markdown."""
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

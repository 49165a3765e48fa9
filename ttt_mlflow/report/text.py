"""Numbers and tables as text, for the terminal and for Markdown."""

from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ttt_mlflow.names import TAG_GPU_NAME, TAG_HOST
from ttt_mlflow.record.recorded_run import RecordedRun


def number(value: float) -> str:
    """Four significant digits, or all digits before the decimal point: ``66,787``, ``15.33``, ``0.01234``."""
    if abs(value) >= 999.95:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def escaped(text: str) -> str:
    """``text`` for a cell of a Markdown table. Renderers would take ``<`` for the begin of HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


GRAY = "bright_black"


def text_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Collection[str] = (),
    gray: Sequence[bool] | None = None,
) -> str:
    """Rows for a terminal. ``numeric``: the columns that are right-aligned. ``gray``: which rows are gray."""
    table = Table(box=SIMPLE_HEAD, header_style="")
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", no_wrap=True)
    for row, faint in zip(rows, gray or [False] * len(rows), strict=True):
        table.add_row(*row, style=GRAY if faint else "")
    colored = any(gray or ())
    console = Console(
        width=1000,
        color_system="standard" if colored else None,
        force_terminal=colored,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip())


NAME_LENGTH = 100  # of a kernel's name; template instances have names of a thousand characters


def shortened(name: str) -> str:
    """A kernel's name, shortened for people."""
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """A Markdown table. All columns except the first ``texts`` are right-aligned."""
    rules = ["---"] * texts + ["---:"] * (len(columns) - texts)
    return [f"| {' | '.join(map(escaped, row))} |" for row in (columns, rules, *rows)]


def run_label(run: RecordedRun) -> str:
    """The run's name, its id and its GPU (or host), in one line."""
    where = run.tags.get(TAG_GPU_NAME.name) or run.tags.get(TAG_HOST.name)
    return f"{run.name}, {run.id}{f', {where}' if where else ''}"

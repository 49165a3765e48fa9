"""The table of runs, one line for each: for the terminal (invalid runs are gray), as CSV, JSON and Markdown."""

import csv
import io
from collections.abc import Callable, Sequence
from datetime import datetime

from ttt_mlflow.config import MicroConfig
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.report.columns import MICRO_COLUMNS, Column, for_machines, for_people, is_invalid
from ttt_mlflow.report.text import escaped, json_text, spreadsheet_cell, text_table

Columns = Sequence[Column] | None  # None: those of the kinds of runs that there are
Block = tuple[Sequence[Column], Sequence[RunRow]]


def table_text(rows: Sequence[RunRow], asked: Columns = None) -> str:
    """The table for a terminal (gray by ANSI codes). Lines are not wrapped to the terminal's width.

    Unless columns are asked for, micro-benchmarks follow in a table of their own.
    """
    return "\n\n".join(
        text_table(
            [column.title for column in columns],
            [[column.text(row) for column in columns] for row in some],
            [column.title for column in _numeric(columns, some)],
            [is_invalid(row) for row in some],
        )
        for columns, some in _blocks(rows, asked)
    )


def table_markdown(rows: Sequence[RunRow], asked: Columns = None) -> str:
    """The same as Markdown."""
    return "\n\n".join("\n".join(_markdown(columns, some)) for columns, some in _blocks(rows, asked))


def table_csv(rows: Sequence[RunRow], asked: Columns = None) -> str:
    """One line for each run, under the names of the columns. A value that the run does not have is an empty cell."""
    columns = for_machines(rows) if asked is None else asked
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([spreadsheet_cell(column.name) for column in columns])
    for row in rows:
        writer.writerow(["" if value is None else _plain(value) for value in (one.value(row) for one in columns)])
    return text.getvalue().rstrip("\n")


def table_json(rows: Sequence[RunRow], asked: Columns = None) -> str:
    """A list with one object for each run. A value that the run does not have is an absent key."""
    columns = for_machines(rows) if asked is None else asked
    objects = []
    for row in rows:
        values = {column.name: column.value(row) for column in columns}
        objects.append({name: _iso(value) for name, value in values.items() if value is not None})
    return json_text(objects)


FORMATS: dict[str, Callable[[Sequence[RunRow], Columns], str]] = {
    "text": table_text,
    "csv": table_csv,
    "json": table_json,
    "markdown": table_markdown,
}


def _blocks(rows: Sequence[RunRow], asked: Columns) -> list[Block]:
    """The tables to show: one with the columns asked for, or one for models and one for micro-benchmarks."""
    if asked is not None:
        return [(asked, rows)]
    micro = [row for row in rows if row.kind == MicroConfig.entry_point]
    models = [row for row in rows if row.kind != MicroConfig.entry_point]
    blocks: list[Block] = [(for_people(models), models)] if models or not micro else []
    return [*blocks, (MICRO_COLUMNS, micro)] if micro else blocks


def _numeric(columns: Sequence[Column], rows: Sequence[RunRow]) -> list[Column]:
    """The columns that have numbers only, at least one. They are right-aligned."""

    def has_numbers(column: Column) -> bool:
        values = [value for value in map(column.value, rows) if value is not None]
        return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

    return [column for column in columns if has_numbers(column)]


def _markdown(columns: Sequence[Column], rows: Sequence[RunRow]) -> list[str]:
    numeric = _numeric(columns, rows)
    lines = [[column.title for column in columns]]
    lines.append(["---:" if column in numeric else "---" for column in columns])
    lines += [[column.text(row) for column in columns] for row in rows]
    return [f"| {' | '.join(map(escaped, line))} |" for line in lines]


def _iso(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _plain(value: object) -> object:
    """A cell of a CSV file: truth values as parameters have them."""
    return str(value).lower() if isinstance(value, bool) else spreadsheet_cell(_iso(value))

"""The tables over context lengths as text, Markdown and CSV: where models cross, their steps, and what fits."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from ttt_mlflow.report.crossings import ABOUT_BEYOND, BEYOND, crossing_text, tokens_text
from ttt_mlflow.report.results import Results, Series
from ttt_mlflow.report.results_contexts import (
    MEMORY,
    STEP,
    Contexts,
    Pair,
    batches_over_contexts,
    contexts_of,
    fit_text,
    pairs_of,
)
from ttt_mlflow.report.results_quantities import Quantity, cell_text
from ttt_mlflow.report.text import escaped, spreadsheet_cell, text_table

CROSSINGS = (
    "Context from which a model with a constant state (rows) decodes faster than one whose cache grows (columns), in "
    "tokens; in parentheses the measured contexts between which it was interpolated"
)
FITS = "Highest batch that fits, of those that were tried or predicted"


def crossing_tables(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """For each batch with crossings a title, the columns, and the rows; see :data:`CROSSINGS`."""
    lines = contexts_of(results)
    tables = []
    for batch in batches_over_contexts(lines):
        if pairs := pairs_of(lines, batch):
            rows, columns = _distinct(pair.constant for pair in pairs), _distinct(pair.growing for pair in pairs)
            texts = {(pair.constant.label, pair.growing.label): crossing_text(pair.crossing) for pair in pairs}
            body = [[row, *(texts.get((row, column), "") for column in columns)] for row in rows]
            tables.append((f"batch {batch:,}", ["", *columns], body))
    return tables


def about_crossings(rows: Iterable[Sequence[str]]) -> list[str]:
    """What the cells of such a table say, in sentences without their full stops."""
    is_beyond = any(text.endswith(BEYOND) for _, *texts in rows for text in texts)
    return [CROSSINGS, *([ABOUT_BEYOND] if is_beyond else [])]


def _distinct(series: Iterator[Series]) -> list[str]:
    return list(dict.fromkeys(one.label for one in series))


def fit_table(lines: Sequence[Contexts]) -> tuple[list[str], list[list[str]]] | None:
    """The columns, and a row for each model; None if nothing is known not to fit."""
    contexts = sorted({context for line in lines for context in line.contexts})
    if not any(line.fit(context).too_large for line in lines for context in line.contexts):
        return None
    columns = ["", *(tokens_text(context) for context in contexts)]
    return columns, [[line.series.label, *(fit_text(line.fit(context)) for context in contexts)] for line in lines]


def contexts_text(results: Results) -> str:
    """The crossings and what fits, for a terminal; empty without several contexts."""
    tables = crossing_tables(results)
    about, *more = about_crossings([row for _, _, rows in tables for row in rows])
    parts = [about] if tables else []
    parts += [f"{title}\n{text_table(columns, rows)}" for title, columns, rows in tables]
    parts += more
    for kind in ("decode", "prefill"):
        if table := fit_table(contexts_of(results, kind)):
            parts.append(f"{FITS}, {kind}, by context\n{text_table(*table)}")
    return "\n\n".join(parts)


def contexts_markdown(results: Results) -> Iterator[str]:
    """The tables of steps and memory by context, the crossings, and what fits."""
    lines = contexts_of(results)
    for batch in batches_over_contexts(lines):
        for quantity in (STEP, MEMORY):
            yield from _quantity_markdown(quantity, lines, batch)
    for title, columns, rows in crossing_tables(results):
        yield from (
            "",
            f"## Crossings, {title}",
            "",
            f"{'. '.join(about_crossings(rows))}.",
            "",
            *_table(columns, rows),
        )
    for kind in ("decode", "prefill"):
        if table := fit_table(contexts_of(results, kind)):
            yield from ("", f"## {FITS}, {kind}", "", "By context, in tokens.", "", *_table(*table))


def _quantity_markdown(quantity: Quantity, lines: Sequence[Contexts], batch: int) -> Iterator[str]:
    rows = [(line.series.label, line.at(batch)) for line in lines]
    rows = [(label, cells) for label, cells in rows if any(quantity.value(cell) is not None for cell in cells.values())]
    if not rows:
        return
    contexts = sorted({context for _, cells in rows for context in cells})
    yield from ("", f"## {quantity.heading}, over the context, batch {batch:,}", "")
    yield from _table(
        ["model", *(tokens_text(context) for context in contexts)],
        [[label, *(cell_text(quantity, cells.get(context)) for context in contexts)] for label, cells in rows],
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(escaped, columns))} |"
    yield f"| --- |{' ---: |' * (len(columns) - 1)}"
    for row in rows:
        yield f"| {' | '.join(map(escaped, row))} |"


def crossings_csv(results: Results) -> str:
    """One line for each pair of a model with a constant state and one that grows; empty without such a pair."""
    lines = contexts_of(results)
    pairs = [pair for batch in batches_over_contexts(lines) for pair in pairs_of(lines, batch)]
    if not pairs:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("set", "batch", "constant_state", "growing_state", "outcome", "context", "between_low", "between_high"),
            *("measured_from", "measured_to", "decode_step_ms", "is_beyond"),
        ]
    )
    for pair in pairs:
        writer.writerow(map(spreadsheet_cell, _csv_line(results, pair)))
    return text.getvalue()


def _csv_line(results: Results, pair: Pair) -> Iterator[object]:
    found = pair.crossing
    yield from (results.sets[pair.constant.set_index], pair.batch, pair.constant.label, pair.growing.label)
    yield from (found.outcome, "" if found.context is None else found.context)
    yield from found.between or ("", "")
    yield from (*found.span, "" if found.step is None else found.step, str(found.is_beyond).lower())

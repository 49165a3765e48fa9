"""The tables of a report as text, Markdown and CSV: throughput by model, inner net and batch, and the further ones."""

import csv
import io
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from ttt_mlflow import names
from ttt_mlflow.report.best_run import Best
from ttt_mlflow.report.columns import THROUGHPUT
from ttt_mlflow.report.contexts_table import contexts_markdown
from ttt_mlflow.report.results import FACTS, GPU, Cell, Grid, Placed, Results, Series
from ttt_mlflow.report.results_contexts import context_of
from ttt_mlflow.report.results_quantities import (
    NO_SPEEDUPS,
    Quantity,
    Speedup,
    baseline_text,
    cell_text,
    legend,
    measured_quantities,
    of_kind,
    speedup,
    throughput_of,
)
from ttt_mlflow.report.text import escaped, spreadsheet_cell, text_table

LINK_SAFE = ":/?#[]@!$&'*+,;=%-._~"  # not parentheses, which would end a link of Markdown


def results_text(results: Results) -> str:
    """The throughput tables for a terminal."""
    parts = []
    for grid in results.grids:
        quantity = throughput_of(grid)
        columns = ["", *(f"{batch:,}" for batch in grid.batches)]
        rows = [
            [one.label, *(cell_text(quantity, one.cells.get(batch)) for batch in grid.batches)] for one in grid.series
        ]
        told = [f"{quantity.heading}, by batch: {', '.join(grid.shared)}", text_table(columns, rows, columns[1:])]
        parts.append("\n".join([*told, *legend([cell for _, _, cell in grid.cells()])]))
    return "\n\n".join([*parts, *results.notes])


def results_markdown(results: Results, best: Sequence[Best] = ()) -> str:
    """The whole report."""
    lines = [f"# {escaped(results.title)}", ""]
    lines += [f"- {escaped(line)}" for one in best for line in one.lines]
    lines += [f"- {escaped(line)}" for line in results.notes]
    for grid in results.grids:
        lines += _grid_markdown(results, grid)
    lines += contexts_markdown(results)
    return "\n".join([*lines, "", "## Runs", "", *_runs_markdown(results)]) + "\n"


def _grid_markdown(results: Results, grid: Grid) -> Iterator[str]:
    for quantity in measured_quantities(grid):
        yield from (
            "",
            f"## {quantity.heading}",
            "",
            f"`{quantity.metric.name}`; {escaped(', '.join(grid.shared))}",
            "",
        )
        yield from _head(grid)
        for one in grid.series:
            texts = [_linked(results, quantity, one.cells.get(batch)) for batch in grid.batches]
            yield f"| {' | '.join([*_names(one), *texts])} |"
        if quantity is throughput_of(grid):
            told = legend([cell for _, _, cell in grid.cells()])
            yield from ("", *(f"{escaped(line)}  " for line in told))
            if len(grid.series) > 1:
                yield from _speedup_markdown(results, grid)


def _speedup_markdown(results: Results, grid: Grid) -> Iterator[str]:
    yield from ("", f"## Throughput against {escaped(baseline_text(grid, results.sets))}", "")
    rows = [(one, [speedup(grid, one, batch) for batch in grid.batches]) for one in grid.series]
    if all(factor is None for _, factors in rows for factor in factors):
        yield f"{NO_SPEEDUPS}."
        return
    yield from _head(grid)
    for one, factors in rows:
        yield f"| {' | '.join([*_names(one), *('' if factor is None else str(factor) for factor in factors)])} |"


def _head(grid: Grid) -> Iterator[str]:
    yield f"| model | {' | '.join(f'batch {batch:,}' for batch in grid.batches)} |"
    yield f"| --- |{' ---: |' * len(grid.batches)}"


def _names(series: Series) -> list[str]:
    return [escaped(", ".join([series.label, *series.notes]))]


def _linked(results: Results, quantity: Quantity, cell: Cell | None) -> str:
    """The cell with a link to its run, and the confidence interval behind it."""
    text = escaped(cell_text(quantity, cell))
    link = results.links.get(cell.row.id) if cell and cell.row else None
    linked = f"[{text}]({quote(link, LINK_SAFE)})" if text and link else text
    interval = quantity.interval_text(cell)
    return f"{linked} {escaped(interval)}" if interval else linked


def _runs_markdown(results: Results) -> Iterator[str]:
    quantities = list({one.name: one for grid in results.grids for one in measured_quantities(grid)}.values())
    several = len(results.sets) > 1
    yield f"| run | id |{' set |' * several} {' | '.join(one.short for one in quantities)} | verdict | why |"
    yield f"| --- | --- |{' --- |' * several}{' ---: |' * len(quantities)} --- | --- |"
    for run in results.runs:
        name, link = escaped(run.name), results.links.get(run.row.id)
        texts = [one.text(run.cell) if one else "" for one in of_kind(quantities, run)]
        linked = f"[{name}]({quote(link, LINK_SAFE)})" if link else name
        of = [escaped(results.sets[run.place.set_index])] * several
        told = [linked, f"`{results.id_of(run.row)}`", *of, *texts, run.state, escaped(run.cell.reason)]
        yield f"| {' | '.join(told)} |"


CSV_METRICS = (
    *("tokens_per_s", "tokens_per_s_ci_low", "tokens_per_s_ci_high"),
    *(
        metric.name
        for metric in (
            *(names.RELATIVE_HALF_WIDTH_PCT, names.DECODE_STEP_MS_P50, names.DECODE_STEP_MS_P90),
            *(names.DECODE_STEP_MS_P99, names.DECODE_STEP_MS_MEAN, names.PREFILL_MS, names.TIME_TO_FIRST_TOKEN_MS),
            *(names.PEAK_MEMORY_ALLOCATED_GB, names.JOULES_PER_TOKEN, names.POWER_W_MEAN, names.SM_CLOCK_MHZ_MEAN),
            *(names.ROOFLINE_MS, names.ROOFLINE_PCT, names.ACCURACY_DIFFERING_TOKENS_PCT, names.ACCURACY_RATIO),
            names.ACCURACY_LOGITS_ERROR,
        )
    ),
)
CSV_FACTS = tuple(name for name in FACTS if name != GPU)


def results_csv(results: Results) -> str:
    """One line for each run, and for each cell without a run. An empty cell: not measured, or not known.

    ``shown``: whether the tables show the run. ``speedup``: the throughput divided by that of ``speedup_against``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *(
                "kind",
                "set",
                "model_name",
                "inner_net",
                "batch",
                GPU,
                *CSV_FACTS,
                "context",
                "state",
                "reason",
                "shown",
            ),
            *(
                *CSV_METRICS,
                "speedup",
                "speedup_against",
                "run_id",
                "record",
                "name",
                "started_at",
                "git_commit",
                "link",
            ),
        ]
    )
    for grid in results.grids:
        for series, batch, cell in grid.cells():
            facts = series.facts_at(batch)
            place = Placed(series.set_index, grid.kind, series.model, series.inner_net, batch, facts, cell)
            line = _csv_line(results, place, True, speedup(grid, series, batch), baseline_text(grid, results.sets))
            writer.writerow(map(spreadsheet_cell, line))
    for run in results.runs:
        if run.row.id not in results.shown:
            writer.writerow(map(spreadsheet_cell, _csv_line(results, run.place, False)))
    return text.getvalue()


def _csv_line(
    results: Results, place: Placed, shown: bool, factor: Speedup | None = None, against: str = ""
) -> Iterator[object]:
    cell = place.cell
    yield from (place.kind, results.sets[place.set_index], place.model, place.inner_net, place.batch)
    yield from (place.facts.get(name, "") for name in (GPU, *CSV_FACTS))
    context = context_of(place.kind, place.facts)
    yield from ("" if context is None else context, cell.state, cell.reason, str(shown).lower())
    yield from _csv_metrics(cell)
    yield from (factor.factor, against) if factor else ("", "")
    row = cell.row
    if row is None:
        yield from [""] * 6
        return
    commit = row.tags.get(names.TAG_GIT_COMMIT.name, "")
    record = row.tags.get(names.TAG_JOURNAL_ID.name, "" if row.id not in results.run_ids else row.id)
    yield from (results.id_of(row), record, results.run_names[row.id], row.started_at.isoformat(), commit)
    yield results.links.get(row.id, "")


def _csv_metrics(cell: Cell) -> Iterator[object]:
    if cell.row is None or not cell.is_measured:
        yield from ("" for _ in CSV_METRICS)
        return
    throughput, metrics = THROUGHPUT[cell.row.kind], cell.row.metrics
    yield from (metrics.get(one.name, "") for one in (throughput, throughput.ci_low, throughput.ci_high))
    yield from (metrics.get(name, "") for name in CSV_METRICS[3:])

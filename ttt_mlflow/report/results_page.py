"""The page of a report, which needs no network: tables, charts, and all runs to search and to sort."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ttt_mlflow import names
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.best_run import Best
from ttt_mlflow.report.contexts_table import about_crossings, crossing_tables
from ttt_mlflow.report.crossings import curve_of
from ttt_mlflow.report.page import page
from ttt_mlflow.report.results import GENLEN, Cell, Grid, Results, Run
from ttt_mlflow.report.results_charts import Chart, Line, charts_of, x_ticks, y_ticks
from ttt_mlflow.report.results_contexts import context_charts
from ttt_mlflow.report.results_quantities import (
    NO_SPEEDUPS,
    QUANTITIES,
    WORDS,
    Quantity,
    measured_quantities,
    of_kind,
    throughput_of,
)
from ttt_mlflow.report.style import GLYPHS, PLOTLY_DASHES, PLOTLY_MARKERS, SAFE_COLORS
from ttt_mlflow.report.text import printable, short

LARGEST = 1000  # texts that are remembered; most runs share their model, GPU and commit
DIGITS = 6  # significant digits of a number in the page; its text has four


def results_html(results: Results, best: Sequence[Best] = ()) -> bytes:
    """The page. Every text of a record is data to its script, which writes text and never HTML."""
    from plotly.offline import get_plotlyjs

    return page(_clean(results.title), "results", page_data(results, best), get_plotlyjs()).encode()


def page_data(results: Results, best: Sequence[Best]) -> dict[str, Any]:
    """What the script shows. A run is named by its place in ``runs``; its values are a list, whose keys are fields."""
    _clean.cache_clear()  # what is a secret may have changed
    quantities = list({one.name: one for grid in results.grids for one in measured_quantities(grid)}.values())
    numbers = {run.row.id: number for number, run in enumerate(results.runs)}
    others = {cell.row.id: cell.others for grid in results.grids for _, _, cell in grid.cells() if cell.row}
    fields = ["id", "name", "date", "kind", "model", "batch", "state", "reason", "gpu", "commit", "link", "others"]
    fields += ["set", "low", "high", "interval", *(one.name for one in quantities), "texts"]
    return {
        "sets": list(map(_clean, results.sets)),
        "best": [_clean(line) for one in best for line in one.lines],
        "notes": list(map(_clean, results.notes)),
        "looks": {"colors": SAFE_COLORS, "markers": PLOTLY_MARKERS, "dashes": PLOTLY_DASHES, "glyphs": GLYPHS},
        "words": WORDS,
        "no_speedups": NO_SPEEDUPS,
        "headings": {one.name: one.short for one in quantities},
        "grids": [_grid(grid, best, numbers) for grid in results.grids],
        "contexts": _contexts(results, numbers),
        "fields": fields,
        "runs": [_run(results, run, quantities, others) for run in results.runs],
    }


def _grid(grid: Grid, best: Sequence[Best], numbers: Mapping[str, int]) -> dict[str, Any]:
    throughput, labels = throughput_of(grid), [one.label for one in grid.series]
    return {
        "kind": grid.kind,
        "shared": _clean(", ".join(grid.shared)),
        "batches": grid.batches,
        "against": grid.series.index(grid.against) if grid.against else None,
        "quantities": [
            {"name": one.name, "heading": one.heading, "metric": one.metric.name, "interval": one is throughput}
            for one in measured_quantities(grid)
        ],
        "series": [
            {
                "label": _clean(one.label),
                "notes": _clean(", ".join(one.notes)),
                "look": one.look,
                "set": one.set_index,
                "steps": [one.facts_at(batch).get(GENLEN) for batch in grid.batches],
                "cells": [_cell(one.cells.get(batch), numbers) for batch in grid.batches],
            }
            for one in grid.series
        ],
        "charts": [_chart(chart, labels, numbers) for chart in charts_of(grid, best)],
    }


def _contexts(results: Results, numbers: Mapping[str, int]) -> dict[str, Any] | None:
    """The charts over the context, drawn as those of a grid, and where models cross; None without several contexts."""
    charts = context_charts(results)
    if not charts:
        return None
    series = list(dict.fromkeys(line.series.label for chart in charts for line in chart.lines))
    shown = {line.series.label: line.series for chart in charts for line in chart.lines}
    tables = crossing_tables(results)
    return {
        "kind": "context",
        "series": [{"label": _clean(one), "look": shown[one].look, "set": shown[one].set_index} for one in series],
        "charts": [_chart(chart, series, numbers) for chart in charts],
        "about": ". ".join(about_crossings([row for _, _, rows in tables for row in rows])),
        "crossings": [
            {"batch": batch, "columns": list(map(_clean, columns)), "rows": [list(map(_clean, row)) for row in rows]}
            for batch, columns, rows in tables
        ],
    }


def _cell(cell: Cell | None, numbers: Mapping[str, int]) -> int | list[str] | None:
    """The number of the run; or, without a run, the state and its reason."""
    if cell is None:
        return None
    return numbers[cell.row.id] if cell.row else [cell.state, _clean(cell.reason)]


def _chart(chart: Chart, labels: Sequence[str], numbers: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": chart.name,
        "title": chart.title,
        "x": chart.x_title,
        "y": chart.y_title,
        "logarithmic": chart.y_logarithmic,
        "ticks": _ticks(x_ticks(chart)),
        "y_ticks": _ticks(y_ticks(chart)),
        "whole_bars": chart.whole_bars,
        "front": [[_short(x), _short(y)] for x, y in chart.front],
        "limit": chart.limit,
        "best": chart.best,
        "marks": [[_short(mark.x), _short(mark.y), mark.text] for mark in chart.marks],
        "lines": [
            {
                "series": labels.index(line.series.label),
                "points": [
                    [numbers[one.run_id], *map(_short, (one.x, one.y, one.low, one.high)), one.state]
                    for one in line.points
                ],
                "curve": _curve(line) if chart.is_linear else None,
                "ends": [[[_short(x), _short(y)] for x, y in end] for end in line.ends],
            }
            for line in chart.lines
            if line.points
        ],
    }


def _ticks(values: Sequence[float]) -> dict[str, Any]:
    """As Plotly takes them."""
    return {"tickvals": values, "ticktext": list(map(short, values))}


def _curve(line: Line) -> list[list[float | None]]:
    kept = [(one.x, one.y) for one in line.points if one.state != "invalid"]
    return [[_short(x), _short(y)] for x, y in curve_of(kept)]


def _run(results: Results, run: Run, quantities: Sequence[Quantity], others: Mapping[str, int]) -> list[Any]:
    row, place, own = run.row, run.place, of_kind(quantities, run)
    throughput = QUANTITIES[place.kind][0]
    low, high = throughput.interval(run.cell) or (None, None)
    values = [one.value(run.cell) if one else None for one in own]
    texts = [one.text(run.cell) if one else "" for one in own]
    told = [_clean(run.name), f"{row.started_at.astimezone():%Y-%m-%d %H:%M}", place.kind]
    model = " ".join(filter(None, [place.model, place.inner_net]))
    of_set = _clean(results.sets[place.set_index]) if len(results.sets) > 1 else None
    rest = [run.cell.reason, place.facts.get("gpu", ""), row.tags.get(names.TAG_GIT_COMMIT.name, "")[:12]]
    return [
        *(results.id_of(row), *told, _clean(model), place.batch, run.state, *map(_clean, rest)),
        *(results.links.get(row.id, ""), others.get(row.id), of_set, *map(_short, (low, high))),
        *(throughput.interval_text(run.cell), *map(_short, values), texts),
    ]


@lru_cache(LARGEST)
def _clean(text: str) -> str:
    """A text of a record, which others may have written, for the page."""
    return without_secrets(printable(text))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")

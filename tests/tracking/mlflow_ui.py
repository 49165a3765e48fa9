"""What MLflow's pages show, read from the page in a browser."""

import json
from typing import Any

from tests.chromium import Chromium

# MLflow's assistant opens by itself in a browser that visits for the first time, beside the page
KNOWN_VISITOR = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
DRAWN = """JSON.stringify([...document.querySelectorAll('.js-plotly-plot')].map(plot => ({
    x: plot.layout.xaxis?.title?.text, y: plot.layout.yaxis?.title?.text,
    points: plot.data.flatMap(one => one.type === 'bar'
        ? one.y.map((run, i) => [run, null, one.x[i], one.marker.color[i]])
        : one.customdata.map((run, i) => [run[0], one.x[i], one.y[i], one.marker.color[i]])),
})))"""
COLUMNS = """JSON.stringify([...document.querySelectorAll('.ag-header-cell')].map(cell =>
    [cell.getAttribute('col-id'), cell.getBoundingClientRect().left, cell.getBoundingClientRect().right]))"""
ROWS = """JSON.stringify([...document.querySelectorAll('.ag-pinned-left-cols-container .ag-row')].map(row => [
    Number(row.getAttribute('row-index')),
    row.querySelector('a[href*="/runs/"]')?.href.split('/').pop() ?? row.innerText]))"""


def open_charts(page: Chromium, link: str, cards: int) -> list[dict[str, Any]]:
    """The charts of a view, as they are drawn once all ``cards`` are: titles of the axes, and [run, x, y, color]s."""
    page.open(link)
    page.wait_for(f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {cards}")
    page.wait_for("document.querySelectorAll('.js-plotly-plot').length > 0")
    charts: list[dict[str, Any]] = json.loads(page.ask(DRAWN))
    return charts


def open_table(page: Chromium, link: str) -> tuple[list[str], list[str]]:
    """The columns that fit the window, from left to right, and the rows from the top: run ids, and texts of groups."""
    page.open(link)
    page.wait_for("document.querySelectorAll('.ag-row').length > 1")
    page.wait_for("document.querySelectorAll('.ag-header-cell').length > 5")
    columns = json.loads(page.ask(COLUMNS))
    edge = float(page.ask("document.querySelector('.ag-root').getBoundingClientRect().right"))
    shown = [name for name, left, right in sorted(columns, key=lambda column: column[1]) if right <= edge + 1]
    rows = dict(map(tuple, json.loads(page.ask(ROWS))))
    return shown, [rows[number] for number in sorted(rows)]

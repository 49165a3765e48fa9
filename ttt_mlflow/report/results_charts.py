"""The charts of a report as data, which the page and the pictures draw: axes, lines, points, and the Pareto front."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ttt_mlflow import names
from ttt_mlflow.names import Metric
from ttt_mlflow.report.best_run import Best
from ttt_mlflow.report.results import Cell, Grid, Series, State
from ttt_mlflow.report.results_quantities import (
    Quantity,
    measured_quantities,
    throughput_of,
)
from ttt_mlflow.report.text import short

# metrics that can be the latency; the first is taken unless a limit names another
LATENCIES: dict[str, tuple[Metric, ...]] = {
    "decode": (
        *(names.DECODE_STEP_MS_P50, names.DECODE_STEP_MS_P90, names.DECODE_STEP_MS_P99, names.DECODE_STEP_MS_MEAN),
    ),
    "prefill": (names.PREFILL_MS, names.TIME_TO_FIRST_TOKEN_MS),
}
OVER_BATCH = ("throughput", "memory", "energy", "roofline")  # quantities that have a chart over the batch
Place = tuple[float, float]  # x and y
TICKS = 8  # labels that fit on an axis
CHARACTER = 0.027  # of a label below an axis, as a part of its length
MARGIN = 0.05  # of an axis, beyond its first and last value
LOGARITHMIC = 30.0  # an axis whose largest value is that many times its smallest is logarithmic


@dataclass(frozen=True)
class Point:
    """One run. low, high: the ends of the confidence interval of y, or what y can be, if there is such a range."""

    x: float
    y: float
    low: float | None
    high: float | None
    batch: int
    state: State
    run_id: str


@dataclass(frozen=True)
class Mark:
    """A point that was found between others, such as where two lines cross."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """ends: where it goes on beyond its points, each from a place to another."""

    series: Series
    points: tuple[Point, ...]
    ends: tuple[tuple[Place, Place], ...] = ()


@dataclass(frozen=True)
class Chart:
    """One chart. batches: where the x axis has its ticks; empty for a numeric axis.

    front: the Pareto front, from the shortest latency to the highest throughput. limit: a latency that --best named.
    best: the point that --best found. labeled: whether points have their batch beside them. marks: points on no line.
    is_linear: whether y is linear in x from point to point, which is a curve on a logarithmic axis.
    whole_bars: whether the y axis has room for all bars; else the points decide it, and a bar may end at its end.
    """

    name: str
    title: str
    x_title: str
    y_title: str
    y_logarithmic: bool
    batches: tuple[int, ...]
    lines: tuple[Line, ...]
    front: tuple[tuple[float, float], ...] = ()
    limit: float | None = None
    best: tuple[float, float] | None = None
    labeled: bool = False
    is_linear: bool = False
    whole_bars: bool = False
    marks: tuple[Mark, ...] = ()

    @property
    def over_batch(self) -> bool:
        return bool(self.batches)


def charts_of(grid: Grid, best: Sequence[Best] = ()) -> list[Chart]:
    """The charts for which at least one run has the numbers."""
    answer = next((one for one in best if one.kind == grid.kind), None)
    quantities = {one.name: one for one in measured_quantities(grid)}
    over_batch = [
        _over_batch(grid, quantities[name])
        for name in ("throughput", "memory", "energy", "roofline")
        if name in quantities
    ]
    found = [over_batch[0], _latency(grid, answer), *over_batch[1:]]
    return [chart for chart in found if any(line.points for line in chart.lines)]


def _over_batch(grid: Grid, quantity: Quantity) -> Chart:
    lines = []
    for series in grid.series:
        points = []
        for batch, cell in series.cells.items():
            value = quantity.value(cell)
            if value is not None:
                points.append(_point(batch, value, quantity.interval(cell), batch, cell))
        lines.append(Line(series, tuple(points)))
    return Chart(
        quantity.name,
        f"{quantity.title} over batch",
        "batch",
        quantity.heading,
        is_logarithmic(point.y for line in lines for point in line.points),
        grid.batches,
        tuple(lines),
    )


def _latency(grid: Grid, answer: Best | None) -> Chart:
    metrics = {metric.name: metric for metric in LATENCIES[grid.kind]}
    limits = [one for one in answer.limits if one.column.meant in metrics] if answer else []
    metric = metrics[limits[0].column.meant] if limits else LATENCIES[grid.kind][0]
    throughput = throughput_of(grid)
    lines, best = [], None
    for series in grid.series:
        points = []
        for batch, cell in series.cells.items():
            latency, value = cell.value(metric), throughput.value(cell)
            if latency is not None and value is not None:
                points.append(_point(latency, value, throughput.interval(cell), batch, cell))
                if answer and answer.run and cell.row and answer.run.id == cell.row.id:
                    best = (latency, value)
        lines.append(Line(series, tuple(points)))
    every = [point for line in lines for point in line.points]
    return Chart(
        "latency",
        "Throughput against latency",
        f"{metric.label}, {metric.unit}",
        throughput.heading,
        is_logarithmic(point.y for point in every),
        (),
        tuple(lines),
        pareto_front(point for point in every if point.state != "invalid"),
        limits[0].bound if limits else None,
        best,
        labeled=True,
    )


def _point(x: float, y: float, interval: tuple[float, float] | None, batch: int, cell: Cell) -> Point:
    low, high = interval or (None, None)
    return Point(x, y, low, high, batch, cell.state, cell.row.id if cell.row else "")


def pareto_front(points: Iterable[Point]) -> tuple[tuple[float, float], ...]:
    """The (x, y) for which no other point has as small an x and a larger y; from the smallest x to the largest y."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda one: (one.x, -one.y)):
        if not front or point.y > front[-1][1]:
            front.append((point.x, point.y))
    return tuple(front)


def is_logarithmic(values: Iterable[float], from_ratio: float = LOGARITHMIC) -> bool:
    found = list(values)
    return bool(found) and min(found) > 0 and max(found) > from_ratio * min(found)


def x_ticks(chart: Chart) -> list[float]:
    """Where the logarithmic x axis has its labels, so far apart that they do not overlap."""
    if chart.over_batch:
        return apart(chart.batches)
    limit = [] if chart.limit is None or chart.limit <= 0 else [chart.limit]
    return _round_numbers([*limit, *(point.x for line in chart.lines for point in line.points)], _are_apart)


def y_ticks(chart: Chart) -> list[float]:
    """The same for a logarithmic y axis."""
    return _round_numbers([point.y for line in chart.lines for point in line.points], lambda ticks: len(ticks) <= TICKS)


def y_range(chart: Chart) -> tuple[float, float]:
    """The ends of the y axis. The bar of a run with few passes can be a thousand times its value: no bar decides it."""
    values = [point.y for line in chart.lines for point in line.points]
    if chart.whole_bars:
        values += [end for line in chart.lines for point in line.points for end in (point.low, point.high) if end]
    if chart.y_logarithmic:
        return with_margins(min(values), max(values))
    return 0.0, (1 + 2 * MARGIN) * max(values, default=1.0) or 1.0


def with_margins(low: float, high: float) -> tuple[float, float]:
    """The ends of a logarithmic axis from ``low`` to ``high`` with a part of its length more at each of them."""
    beyond = (high / low) ** MARGIN
    return low / beyond, high * beyond


def _are_apart(ticks: Sequence[float]) -> bool:
    """Whether the labels of the ticks have room below a logarithmic axis."""
    length = math.log(ticks[-1] / ticks[0]) if len(ticks) > 1 else 1.0
    half = [CHARACTER / 2 * (len(short(tick)) + 1) for tick in ticks]
    return all(
        math.log(high / low) / length > left + right
        for (low, high), (left, right) in zip(pairwise(ticks), pairwise(half), strict=True)
    )


def _round_numbers(values: Sequence[float], fit: Callable[[Sequence[float]], bool]) -> list[float]:
    """1, 2, 5 and so on, from just below the smallest value to just above the largest; or 1 and 3, or 1, so that they
    fit."""
    if not values or min(values) <= 0:
        return []
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        every = [float(f"{step}e{power}") for power in range(low, high + 1) for step in steps]
        found = [tick for tick in every if min(values) / 1.5 <= tick <= max(values) * 1.5 and math.isfinite(tick)]
        if fit(found):
            break
    return found


def apart(batches: Sequence[int]) -> list[float]:
    """Those of ``batches`` that are far enough apart on a logarithmic axis, the largest among them."""
    length = math.log(batches[-1] / batches[0]) if len(batches) > 1 else 1.0
    kept: list[float] = []
    for batch in reversed(batches):
        wide = CHARACTER / 2 * (len(short(batch)) + len(short(kept[-1]))) if kept else 0.0
        if not kept or math.log(kept[-1] / batch) / length >= max(wide, 0.999 / TICKS):
            kept.append(float(batch))
    return kept[::-1]

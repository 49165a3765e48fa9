"""Models over the context length: the time of a decode step and the memory, where they cross, and what fits.

The context of a decode run is the mean number of tokens that a sequence has before a step: the prompt, and half of what
the pass decodes. That of a prefill run is its prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ttt_mlflow import names
from ttt_mlflow.record.derived import whole_number
from ttt_mlflow.record.sweep_file import DOES_NOT_FIT
from ttt_mlflow.report.crossings import Crossing, crossing_of, level, tokens_text
from ttt_mlflow.report.results import GPU, Cell, Grid, Placed, Results, Series, State
from ttt_mlflow.report.results_charts import Chart, Line, Mark, Place, Point, is_logarithmic
from ttt_mlflow.report.results_grids import RANK, labels_of, looks_of, with_looks_apart
from ttt_mlflow.report.results_quantities import QUANTITIES, Quantity
from ttt_mlflow.report.results_rows import Group, Row, first_of, joined
from ttt_mlflow.report.text import number

LENGTHS = (names.PROMPTLEN.name, names.GENLEN.name)
STEP = next(one for one in QUANTITIES["decode"] if one.metric is names.DECODE_STEP_MS_P50)
MEMORY = next(one for one in QUANTITIES["decode"] if one.metric is names.PEAK_MEMORY_ALLOCATED_GB)
LOGARITHMIC = 4.0  # so that small steps, which are the message, can be told apart
MOST_MARKS = 12  # in a chart; the table has all


@dataclass(frozen=True)
class Fit:
    """How large a batch fits. highest: the largest that was measured; None if none was.

    too_large: the smallest larger one that does not fit; None if no larger one was tried or predicted. is_predicted:
    whether that was predicted and not tried.
    """

    highest: int | None
    too_large: int | None = None
    is_predicted: bool = False


@dataclass(frozen=True)
class Contexts:
    """One model over context lengths. series: its label and look. cells: by context and batch.

    grows: whether a step costs more with the context. is_level: whether it is known to cost the same. Its ``series``
    has no cells of its own.
    """

    kind: str
    series: Series
    grows: bool
    is_level: bool
    cells: Mapping[tuple[float, int], Cell]

    def at(self, batch: int) -> dict[float, Cell]:
        return {context: cell for (context, one), cell in sorted(self.cells.items()) if one == batch}

    @property
    def contexts(self) -> list[float]:
        return sorted({context for context, _ in self.cells})

    def fit(self, context: float) -> Fit:
        """What fits at ``context``."""
        here = {batch: cell for (one, batch), cell in self.cells.items() if one == context}
        highest = max((batch for batch, cell in here.items() if cell.is_measured), default=None)
        beyond = sorted(batch for batch, cell in here.items() if cell.state in DOES_NOT_FIT and batch > (highest or 0))
        if not beyond:
            return Fit(highest)
        return Fit(highest, beyond[0], here[beyond[0]].state == "predicted_oom")


@dataclass(frozen=True)
class Pair:
    """A model with a constant state and one that grows, at one batch."""

    batch: int
    constant: Series
    growing: Series
    crossing: Crossing


def contexts_of(results: Results, kind: str = "decode") -> list[Contexts]:
    """The models of the runs of ``kind``; several lengths of one model are one. Empty without two contexts."""
    placed: list[tuple[Placed, float]] = []
    for grid in results.grids:
        if grid.kind == kind:
            placed += _placed(grid)
    if len({context for _, context in placed}) < 2:
        return []
    places = {id(one): (context, one.batch) for one, context in placed}
    groups: dict[tuple[object, ...], Row] = {}
    for one, _ in placed:
        groups.setdefault(one.key, []).append(one)
    rows = joined([Group(row, frozenset(places[id(one)] for one in row)) for row in groups.values()])
    firsts = [first_of(row) for row in rows]
    found = []
    looks = zip(rows, firsts, labels_of(firsts, results.sets), looks_of(firsts), strict=True)
    for row, first, label, look in looks:
        series = Series(first.model, first.inner_net, *label, first.facts, first.set_index, look, {})
        cells: dict[tuple[float, int], Cell] = {}
        for one in row:
            at = places[id(one)]
            if at not in cells or _rank(one.cell) > _rank(cells[at]):
                cells[at] = one.cell
        tags = {one.cell.row.tags.get(names.TAG_COST_GROWS.name) for one in row if one.cell.row}
        found.append(Contexts(kind, series, "true" in tags, tags == {"false"}, cells))
    return found


def _placed(grid: Grid) -> Iterator[tuple[Placed, float]]:
    """Each cell without its lengths, and its context."""
    for series, batch, cell in grid.cells():
        known = series.facts_at(batch)
        context = context_of(grid.kind, known)
        if context is not None:
            facts = {name: text for name, text in known.items() if name not in LENGTHS}
            yield Placed(series.set_index, grid.kind, series.model, series.inner_net, batch, facts, cell), context


def context_of(kind: str, facts: Mapping[str, str]) -> float | None:
    """The context of runs with these facts; None if their lengths are not known."""
    prompt, steps = (whole_number(facts.get(name, "")) for name in LENGTHS)
    if prompt is None or kind == "prefill":
        return prompt
    return None if steps is None else prompt + (steps - 1) / 2


def _rank(cell: Cell) -> tuple[int, float]:
    return RANK.get(cell.state, 0), cell.row.started_at.timestamp() if cell.row else 0.0


def batches_over_contexts(lines: Sequence[Contexts], most: int | None = None) -> list[int]:
    """The batches at which some model was measured at two contexts or more. most: only those with the most points."""
    counts: dict[int, int] = {}
    for line in lines:
        for batch in {batch for _, batch in line.cells}:
            measured = sum(cell.is_measured for cell in line.at(batch).values())
            if measured > 1:
                counts[batch] = counts.get(batch, 0) + measured
    return sorted(sorted(counts, key=lambda batch: (-counts[batch], batch))[:most])


def pairs_of(lines: Sequence[Contexts], batch: int) -> list[Pair]:
    """Each model with a constant state beside each that grows, of one set and GPU. Invalid runs take no part."""
    found = []
    for one in lines:
        for other in lines:
            same = (one.series.set_index, one.series.facts.get(GPU)) == (
                other.series.set_index,
                other.series.facts.get(GPU),
            )
            if one.grows or not other.grows or not same:
                continue
            crossing = crossing_of(_steps(one, batch), _steps(other, batch), one.is_level)
            if crossing is not None:
                found.append(Pair(batch, one.series, other.series, crossing))
    return found


def _steps(line: Contexts, batch: int) -> list[tuple[float, float]]:
    values = {context: STEP.value(cell) for context, cell in line.at(batch).items() if cell.state != "invalid"}
    return [(context, value) for context, value in values.items() if value]


def context_charts(results: Results, most_batches: int | None = None) -> list[Chart]:
    """The charts over the context: the step and the memory at each batch, and the highest batch that fits.

    most_batches: how many batches have charts, those with the most points; None: all.
    """
    decode = contexts_of(results)
    charts = []
    for batch in batches_over_contexts(decode, most_batches):
        marks = tuple(_marks(pairs_of(decode, batch)))
        charts.append(_chart("step", STEP, decode, batch, marks))
        charts.append(_chart("memory", MEMORY, decode, batch))
    prefill = contexts_of(results, "prefill")
    _, looks = with_looks_apart([[one.series for one in lines] for lines in (decode, prefill)])
    prefill = [replace(one, series=series) for one, series in zip(prefill, looks, strict=True)]
    charts += [_fit_chart(kind, lines) for kind, lines in (("decode", decode), ("prefill", prefill)) if lines]
    return [chart for chart in charts if any(line.points for line in chart.lines)]


def _chart(name: str, quantity: Quantity, lines: Sequence[Contexts], batch: int, marks: tuple[Mark, ...] = ()) -> Chart:
    drawn = []
    for line in lines:
        points = []
        for context, cell in line.at(batch).items():
            value = quantity.value(cell)
            if value is not None:
                points.append(_point(context, value, batch, cell.state, cell))
        drawn.append(Line(line.series, tuple(points)))
    if quantity is STEP:
        reached = [point.x for line in drawn for point in line.points]
        drawn = [
            replace(one, ends=_ends(_steps(line, batch), reached)) if line.is_level else one
            for line, one in zip(lines, drawn, strict=True)
        ]
    title = f"{quantity.title}, batch {batch:,}"
    return replace(_of(f"{name}-{batch}", title, quantity.heading, drawn, marks), is_linear=True)


def _ends(measured: Sequence[tuple[float, float]], reached: Sequence[float]) -> tuple[tuple[Place, Place], ...]:
    """The lines from the first and the last measured place to where the chart begins and ends."""
    drawn = level(measured, reached)
    return tuple(pair for pair in pairwise(drawn) if not {*pair} <= {*measured})


def _fit_chart(kind: str, lines: Sequence[Contexts]) -> Chart:
    """Empty if nothing is known not to fit: the highest batch is then only the largest that someone tried."""
    drawn = []
    if any(line.fit(context).too_large for line in lines for context in line.contexts):
        for line in lines:
            points = []
            for context in line.contexts:
                fit = line.fit(context)
                if fit.highest is None:
                    continue
                # filled: bounded by a run, hollow: by a prediction, half: by nothing
                state: State = "missing" if fit.too_large is None else "predicted_oom" if fit.is_predicted else "valid"
                cell = line.cells[context, fit.highest]
                points.append(_point(context, fit.highest, fit.highest, state, cell, fit.too_large))
            drawn.append(Line(line.series, tuple(points)))
    what = "Highest batch that fits" if kind == "decode" else "Highest batch that fits, prefill"
    return replace(_of(f"fits-{kind}", what, "sequences", drawn, ()), whole_bars=True)


def _point(x: float, y: float, batch: int, state: State, cell: Cell, high: float | None = None) -> Point:
    return Point(x, y, None if high is None else y, high, batch, state, cell.row.id if cell.row else "")


def _of(name: str, title: str, y_title: str, lines: Sequence[Line], marks: tuple[Mark, ...]) -> Chart:
    values = [point.y for line in lines for point in line.points]
    return Chart(
        name, title, "context, tokens", y_title, is_logarithmic(values, LOGARITHMIC), (), tuple(lines), marks=marks
    )


def _marks(pairs: Sequence[Pair]) -> Iterator[Mark]:
    for pair in [one for one in pairs if one.crossing.outcome == "crosses"][:MOST_MARKS]:
        crossing = pair.crossing
        if crossing.context is not None and crossing.step is not None:
            yield Mark(crossing.context, crossing.step, tokens_text(crossing.context))


def fit_text(fit: Fit) -> str:
    """For a cell of a table: ``128``, ``at least 128``, ``128 to 255 (predicted)``, ``less than 8``."""
    sign = " (predicted)" if fit.is_predicted else ""
    if fit.too_large is None:
        return "" if fit.highest is None else f"at least {number(fit.highest)}"
    if fit.highest is None:
        return f"less than {number(fit.too_large)}{sign}"
    return f"{number(fit.highest)}, not {number(fit.too_large)}{sign}"

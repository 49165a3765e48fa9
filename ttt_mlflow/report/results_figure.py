"""The pictures of a report for papers and slides: the throughput table, and the charts, each as a matplotlib figure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.crossings import curve_of
from ttt_mlflow.report.results import Cell, Grid, Results, Series
from ttt_mlflow.report.results_charts import Chart, Line, Point, with_margins, x_ticks, y_range, y_ticks
from ttt_mlflow.report.results_quantities import throughput_of
from ttt_mlflow.report.style import DASHES, GRAY, MARKERS, SAFE_COLORS
from ttt_mlflow.report.text import counted, printable, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.5}
LINE_COLOR, PALE, FAINT = "#c9ced6", "#f1f2f4", "#5f6670"
MOST_ROWS = 12  # of a table, or lines of a chart, in a picture; the page and the Markdown have all
ROW, HEADING, COLUMN, CHARACTER = 0.42, 0.3, 1.18, 0.082  # inches
COLUMNS = 3
PANEL = (4.3, 3.3)  # inches; of these, the margins of the axes:
LEFT, BESIDE, ABOVE, BELOW = 0.95, 0.25, 0.32, 0.52
PALE_POINT: dict[str, Any] = {"alpha": 0.4, "linestyle": "none", "markersize": 7.5}  # an invalid one, and through it:
CROSS: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 4}
# how the marker of a point is filled; the last two are of the chart of the highest batches
FILLS: dict[str, Any] = {"valid": "full", "unjudged": "none", "predicted_oom": "none", "missing": "full"}
BEYOND: dict[str, Any] = {"marker": "", "linestyle": ":", "linewidth": 1.2}
LABEL_OFFSETS = ((5, -11), (-5, 4), (5, 4), (-5, -11))  # points, from a point of a chart to its label
CROSSING = "constant state is faster from here on"
MARK_OFFSETS = ((0, 7, "center"), (0, -14, "center"), (8, -3, "left"), (-8, -3, "right"))  # as the others below
AT_LEAST = "$≥$"
MOST_LABELS = 40  # points that are labeled; more would hide the lines
CHARACTER_PX, LABEL_PX = 5.5, 10.0  # a label's size at 100 dots per inch
SAME_PX = 24.0  # points of one configuration in several sets that are as near as that have one label
LINE_PX = 4.0  # from one to the next of the places on a line that labels avoid


def text(what: str) -> str:
    """A text of a record for matplotlib, which would take dollars for formulas."""
    return without_secrets(printable(what)).replace("$", r"\$")


def table_figure(results: Results) -> "Figure":
    """The throughput tables: invalid numbers gray, hatched where memory is not enough, empty where nothing was run."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    blocks = [(grid, list(grid.series[:MOST_ROWS])) for grid in results.grids]
    left = max((CHARACTER * _label_length(one) for _, rows in blocks for one in rows), default=1.0) + 0.2
    width = left + COLUMN * max((len(grid.batches) for grid, _ in blocks), default=1) + 0.1
    height = sum(HEADING * 3 + ROW * len(rows) + HEADING for _, rows in blocks) + 0.1
    with mpl.rc_context(LOOKS):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        top = 0.1
        for grid, rows in blocks:
            top = _table(axes, grid, rows, left, top)
        return figure


def _label_length(series: Series) -> float:
    return max(len(series.label), 0.85 * len(", ".join(series.notes)))


def _table(axes: "Axes", grid: Grid, rows: Sequence[Series], left: float, top: float) -> float:
    """Draw one table ``top`` inches from the top, its labels ``left`` inches wide; returns where it ends."""
    quantity = throughput_of(grid)
    end = left + COLUMN * len(grid.batches)
    axes.text(0.1, top + 0.2, text(quantity.heading), weight="bold", fontsize=11, va="center")
    axes.text(0.1, top + 0.45, text(", ".join(grid.shared)), fontsize=8, color=FAINT, va="center")
    axes.text(left, top + 0.75, "batch", fontsize=8, color=FAINT, ha="right", va="center")
    for column, batch in enumerate(grid.batches):
        right = left + COLUMN * (column + 1)
        axes.text(right - 0.1, top + 0.75, f"{batch:,}", weight="bold", ha="right", va="center")
    top += HEADING * 3
    axes.plot([0.1, end], [top, top], color="black", linewidth=0.8)
    for index, series in enumerate(rows):
        y = top + ROW * index
        middle = y + ROW / 2
        axes.text(0.1, middle - (0.07 if series.notes else 0), text(series.label), va="center")
        if series.notes:
            axes.text(0.1, middle + 0.1, text(", ".join(series.notes)), fontsize=7, color=FAINT, va="center")
        for column, batch in enumerate(grid.batches):
            _cell(axes, grid, series.cells.get(batch), (left + COLUMN * column, y))
        axes.plot([0.1, end], [y + ROW, y + ROW], color=LINE_COLOR, linewidth=0.5)
    top += ROW * len(rows)
    more = len(grid.series) - len(rows)
    told = [f"{counted(more, 'more row')}: see the page or the Markdown"] if more else []
    axes.text(0.1, top + 0.17, text("; ".join([*_signs(grid), *told])), fontsize=7, color=FAINT, va="center")
    return top + HEADING + 0.1


def _cell(axes: "Axes", grid: Grid, cell: Cell | None, corner: tuple[float, float]) -> None:
    from matplotlib.patches import Rectangle

    if cell is None or cell.state == "missing":
        return
    (x, y), quantity = corner, throughput_of(grid)
    right, middle = x + COLUMN - 0.1, y + ROW / 2
    box = (x + 0.03, y + 0.03), COLUMN - 0.06, ROW - 0.06
    if not cell.is_measured:
        hatched = "oom" in cell.state
        if hatched:
            axes.add_patch(Rectangle(*box, facecolor="white", edgecolor=GRAY, hatch="////", linewidth=0))
        word: str = {"oom": "OOM", "predicted_oom": "OOM*"}.get(cell.state, cell.state)
        back = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if hatched else None
        axes.text(x + COLUMN / 2, middle, word, fontsize=8, color=FAINT, ha="center", va="center", bbox=back)
        return
    invalid = cell.state == "invalid"
    if invalid:
        axes.add_patch(Rectangle(*box, facecolor=PALE, edgecolor="none"))
    interval = quantity.interval_text(cell)
    line = middle - (0.07 if interval else 0)
    axes.text(right, line, quantity.text(cell), ha="right", va="center", color=GRAY if invalid else "black")
    if cell.state == "unjudged":  # beside the number, whose last digit stays under those of other cells
        axes.text(right + 0.01, line, "?", ha="left", va="center", color=FAINT)
    if interval:
        axes.text(right, middle + 0.1, interval, fontsize=6, ha="right", va="center", color=GRAY if invalid else FAINT)


def _signs(grid: Grid) -> list[str]:
    """What the signs of the table mean, for those that it has."""
    states = {cell.state for _, _, cell in grid.cells()}
    signs = {
        "valid": "[…]: 95 % confidence interval",
        "invalid": "gray: invalid",
        "unjudged": "?: not judged",
        "oom": "OOM: out of memory",
        "predicted_oom": "OOM*: out of memory, predicted and not tried",
    }
    return [sign for state, sign in signs.items() if state in states]


def charts_figure(charts: Sequence[tuple[str, Chart]], columns: int | None = None) -> "Figure":
    """All charts side by side, with one legend. Each comes with the text above it. columns: None: as many as fit."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    named = _named(charts)
    columns = columns or (2 if len(charts) in (2, 4) else min(COLUMNS, max(len(charts), 1)))
    rows = math.ceil(len(charts) / columns) if charts else 1
    with mpl.rc_context(LOOKS):
        handles = [*named.values(), *_signs_of_charts([chart for _, chart in charts])]
        longest = max((len(handle.get_label()) for handle in handles), default=1)
        across = max(1, int(columns * PANEL[0] / (0.8 + CHARACTER * longest)))
        legend = 0.2 + 0.22 * math.ceil(len(handles) / across)
        width, height = columns * PANEL[0], rows * PANEL[1] + legend
        figure = Figure(figsize=(width, height))
        for index, (title, chart) in enumerate(charts):
            row, column = divmod(index, columns)
            left, low = column * PANEL[0] + LEFT, height - (row + 1) * PANEL[1] + BELOW
            size = PANEL[0] - LEFT - BESIDE, PANEL[1] - BELOW - ABOVE
            axes = figure.add_axes((left / width, low / height, size[0] / width, size[1] / height))
            _draw(axes, chart)
            axes.set_title(text(title), loc="left", fontsize=10, weight="bold")
            if chart.labeled:
                _label_points(figure, axes, chart)
            _label_marks(figure, axes, chart)
        if handles:
            figure.legend(handles=handles, loc="lower center", ncols=across, frameon=False, fontsize=8, handlelength=3)
        return figure


def _named(charts: Sequence[tuple[str, Chart]]) -> dict[str, Any]:
    """The legend: a line for each series that some chart shows."""
    from matplotlib.lines import Line2D

    lines = {line.series.label: line for _, chart in charts for line in _shown(chart)}
    handles = {label: Line2D([], [], label=text(label), markersize=5, **_look(line)) for label, line in lines.items()}
    more = max((sum(bool(line.points) for line in chart.lines) for _, chart in charts), default=0) - MOST_ROWS
    if more > 0:
        told = f"{counted(more, 'more row')}: see the page"
        handles[told] = Line2D([], [], linestyle="none", label=told)
    return handles


def _shown(chart: Chart) -> list[Line]:
    """The lines of a chart that a picture has room for."""
    return [line for line in chart.lines if line.points][:MOST_ROWS]


def _look(line: Line) -> dict[str, Any]:
    look = line.series.look
    return {
        "color": SAFE_COLORS[look % len(SAFE_COLORS)],
        "marker": MARKERS[look % len(MARKERS)],
        "linestyle": DASHES[line.series.set_index % len(DASHES)],
    }


def _signs_of_charts(charts: Sequence[Chart]) -> Iterator[Any]:
    from matplotlib.lines import Line2D

    points = [point for chart in charts for line in _shown(chart) for point in line.points]
    if any(chart.front for chart in charts):
        yield Line2D([], [], color=LINE_COLOR, linewidth=5, label="Pareto front")
    if any(chart.best for chart in charts):
        ring: dict[str, Any] = {"marker": "o", "fillstyle": "none", "color": "black", "markersize": 9}
        yield Line2D([], [], linestyle="none", label="best within the limit (dotted)", **ring)
    if any(point.state == "invalid" for point in points):
        yield Line2D([], [], label="invalid (crossed out, pale)", color=FAINT, **CROSS)
    signs = {
        "unjudged": "not judged (hollow)",
        "predicted_oom": "next batch predicted not to fit (hollow)",
        "missing": "no larger batch was tried",
    }
    for state, told in signs.items():
        marker = AT_LEAST if state == "missing" else "o"
        if any(point.state == state for point in points):
            yield Line2D([], [], linestyle="none", marker=marker, fillstyle=FILLS[state], color=FAINT, label=told)
    if any(line.ends for chart in charts for line in _shown(chart)):
        yield Line2D([], [], label="constant state, from where it was measured", color=FAINT, **BEYOND)
    if any(chart.marks for chart in charts):
        yield Line2D([], [], linestyle="none", marker="D", fillstyle="none", color="black", label=CROSSING)


def _draw(axes: "Axes", chart: Chart) -> None:
    if chart.front:
        x, y = zip(*chart.front, strict=True)
        look: dict[str, Any] = {
            "color": LINE_COLOR,
            "linewidth": 5,
            "alpha": 0.8,
            "zorder": 1,
            "solid_capstyle": "butt",
        }
        axes.step(x, y, where="post", **look)
    for line in _shown(chart):
        _draw_line(axes, line, chart.is_linear)
    axes.set(xlabel=text(chart.x_title), ylabel=text(chart.y_title), xscale="log")
    axes.grid(alpha=0.25)
    if chart.y_logarithmic:
        axes.set_yscale("log")
        axes.set_yticks(y_ticks(chart))
        axes.set_yticks([], minor=True)
    axes.set_ylim(*y_range(chart))
    axes.yaxis.set_major_formatter(lambda value, _: short(value))
    ticks = x_ticks(chart)
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    if len(chart.batches) > 1:  # all batches, also those without a point here, with the same margins in each chart
        axes.set_xlim(*with_margins(chart.batches[0], chart.batches[-1]))
    axes.set_xticks([], minor=True)
    if chart.limit is not None:
        axes.axvline(chart.limit, color=FAINT, linestyle=":", linewidth=1)
    for mark in chart.marks:
        axes.plot(mark.x, mark.y, marker="D", markersize=7, fillstyle="none", color="black", zorder=4)
    if chart.best is not None:
        axes.plot(*chart.best, marker="o", markersize=13, fillstyle="none", color="black", zorder=4)


def _draw_line(axes: "Axes", line: Line, is_linear: bool) -> None:
    """The line, which leaves invalid points out; unjudged points are hollow, invalid ones pale and crossed out."""
    look = _look(line)
    kept = [point for point in line.points if point.state != "invalid"]
    if is_linear and kept:
        x, y = zip(*curve_of([(point.x, point.y) for point in kept]), strict=True)
        axes.plot(x, y, **look | {"marker": "", "linewidth": 1.5})
    else:
        _add_points(axes, kept, look | {"marker": "", "linewidth": 1.5})
    for end in line.ends:
        x, y = zip(*end, strict=True)
        axes.plot(x, y, **look | BEYOND)
    for state, fill in FILLS.items():
        _add_points(axes, [one for one in kept if one.state == state], look | {"linestyle": "none", "fillstyle": fill})
    for point in (one for one in kept if one.state == "missing"):
        below: dict[str, Any] = {"xytext": (0, -12), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        axes.annotate("≥", (point.x, point.y), color=look["color"], **below)
    invalid = [one for one in line.points if one.state == "invalid"]
    _add_points(axes, invalid, look | PALE_POINT)
    _add_points(axes, invalid, look | CROSS)
    for points, alpha in ((kept, 1.0), (invalid, PALE_POINT["alpha"])):
        ends = [(one.x, one.low, one.high) for one in points if one.low is not None and one.high is not None]
        if ends:
            x, low, high = zip(*ends, strict=True)
            axes.vlines(x, low, high, colors=look["color"], linewidth=1, alpha=alpha)


def _add_points(axes: "Axes", points: Sequence[Point], look: Mapping[str, Any]) -> None:
    if points:
        axes.plot([one.x for one in points], [one.y for one in points], **{"markersize": 5, **look})


def _label_marks(figure: "Figure", axes: "Axes", chart: Chart) -> None:
    """Write its text beside each mark, above it where no other is in the way."""
    scale = figure.dpi / 72
    at = [axes.transData.transform((mark.x, mark.y)) for mark in chart.marks]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    for mark, (x, y) in zip(chart.marks, at, strict=True):
        wide = CHARACTER_PX * len(mark.text)
        shifts = {"center": wide / 2, "left": 0.0, "right": wide}
        boxes = []
        for right, up, side in MARK_OFFSETS:
            left, low = x + right * scale - shifts[side], y + up * scale
            boxes.append((left, low, left + wide, low + LABEL_PX))
        free = [index for index, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken)]
        chosen = free[0] if free else 0
        right, up, side = MARK_OFFSETS[chosen]
        beside: dict[str, Any] = {"xytext": (right, up), "textcoords": "offset points", "ha": side, "fontsize": 8}
        axes.annotate(mark.text, (mark.x, mark.y), **beside)
        taken.append(boxes[chosen])


def _label_points(figure: "Figure", axes: "Axes", chart: Chart) -> None:
    """Write its batch beside each point, where there is room, best where no line runs; beside none of many points."""
    scale = figure.dpi / 72
    of_lines = [(line.series.look, point) for line in _shown(chart) for point in line.points]
    points = [point for _, point in of_lines]
    if not 0 < len(points) <= MOST_LABELS:
        return
    at = axes.transData.transform([(point.x, point.y) for point in points])
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in at]
    inside, lines = axes.get_window_extent(), list(_places_on_lines(axes, chart))
    labeled: list[tuple[tuple[int, int], float, float]] = []
    for (look, point), (x, y) in zip(of_lines, at, strict=True):
        own = look, point.batch
        if any(own == other and math.hypot(x - left, y - low) < SAME_PX for other, left, low in labeled):
            continue
        label = short(point.batch)
        wide = CHARACTER_PX * len(label)
        free = []
        for right, up in LABEL_OFFSETS:
            left, low = x + right * scale - (wide if right < 0 else 0), y + up * scale
            box = (left, low, left + wide, low + LABEL_PX)
            within = inside.x0 <= box[0] and box[2] <= inside.x1 and inside.y0 <= box[1] and box[3] <= inside.y1
            if within and not any(_overlap(box, other) for other in taken):
                hidden = sum(box[0] <= across <= box[2] and box[1] <= along <= box[3] for across, along in lines)
                free.append((hidden, right, up, box))
        if not free:
            continue
        _, right, up, box = min(free, key=lambda one: one[0])  # the first of those that hide as little of a line
        beside: dict[str, Any] = {"xytext": (right, up), "textcoords": "offset points"}
        beside |= {"fontsize": 7, "color": FAINT, "ha": "right" if right < 0 else "left"}
        axes.annotate(label, (point.x, point.y), **beside)
        taken.append(box)
        labeled.append((own, x, y))


def _places_on_lines(axes: "Axes", chart: Chart) -> Iterator[tuple[float, float]]:
    """Places along all lines and the limit, in pixels, near to each other."""
    for line in _shown(chart):
        kept = [(point.x, point.y) for point in line.points if point.state != "invalid"]
        corners: Any = axes.transData.transform(kept) if kept else ()
        for (x, y), (end_x, end_y) in pairwise(corners):
            count = max(1, math.ceil(math.hypot(end_x - x, end_y - y) / LINE_PX))
            yield from ((x + (end_x - x) * i / count, y + (end_y - y) * i / count) for i in range(count + 1))
    if chart.limit is not None:
        inside = axes.get_window_extent()
        x = axes.transData.transform((chart.limit, 0.0))[0]
        yield from ((x, inside.y0 + LINE_PX * i) for i in range(int(inside.height / LINE_PX)))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

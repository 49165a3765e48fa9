"""The pictures: what is drawn, read from the figures and from the SVG."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tests.report import h200
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.report.best_run import best_of, parse_limits
from ttt_mlflow.report.results import Results
from ttt_mlflow.report.results_charts import Mark, charts_of
from ttt_mlflow.report.results_figure import MOST_ROWS, PALE_POINT, charts_figure, table_figure
from ttt_mlflow.report.results_grids import RunSet, results_of
from ttt_mlflow.report.style import GRAY, MARKERS, SAFE_COLORS, figure_png, figure_svg


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("h200")
    told = {"ttt.verdict": "invalid", "ttt.reasons": "drift"}
    invalid = h200.row(root, {"decode_tokens_per_s": 999.0}, told=told, batch=128, genlen=128, **h200.model_of(None))
    return of([*h200.rows(root), invalid])


def of(rows: Sequence[RunRow]) -> Results:
    return results_of([RunSet("", rows)], "")


def charts(results: Results) -> Figure:
    best = best_of(results, parse_limits("decode_step_ms_p99 < 11"))
    return charts_figure([(chart.title, chart) for grid in results.grids for chart in charts_of(grid, best)])


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_table(results: Results) -> None:
    figure = table_figure(results)
    shown = texts(figure)
    assert {"128", "1,024", "2,048", "8,192", "67,344", "[67,257, 67,401]", "139,837", "OOM"} <= set(shown)
    (axes,) = figure.axes
    (hatched,) = (one for one in axes.patches if one.get_hatch())
    assert isinstance(hatched, Rectangle)
    (invalid,) = (one for one in axes.texts if one.get_text() == "999.0")
    assert invalid.get_color() == GRAY
    assert shown.count("?") == 2, "not judged"


def test_no_texts_of_the_table_overlap(results: Results) -> None:
    figure = table_figure(results)
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.axes[0].texts if text.get_text() != "?"]
    assert not [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for _, box in boxes)


def test_the_charts(results: Results) -> None:
    figure = charts(results)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == [
        *("Decode throughput over batch", "Throughput against latency", "Peak memory over batch"),
        "Energy per token over batch",
    ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("mamba-1.4b", "ttt-1b mlp_1_dual_triton", "ttt-1b mlp_2_dual_triton", "Pareto front"),
        *("best within the limit (dotted)", "invalid (crossed out, pale)", "not judged (hollow)"),
    ]
    colors = {line.get_color() for line in figure.axes[0].lines}
    assert colors == {*SAFE_COLORS[:3]}


def test_invalid_points_are_told_apart(tmp_path: Path) -> None:
    """Each is pale, with the color and the marker of its row, and crossed out."""
    told = {"ttt.verdict": "invalid"}
    nets = (None, h200.LINEAR, h200.MLP)
    rows = [h200.row(tmp_path, {"decode_tokens_per_s": 9.0}, told=told, **h200.model_of(net)) for net in nets]
    lines = charts_figure([("", chart) for chart in charts_of(of(rows).grids[0])]).axes[0].lines
    looks = [(line.get_color(), line.get_marker(), line.get_alpha(), line.get_linestyle()) for line in lines]
    for color, marker in zip(SAFE_COLORS[:3], MARKERS, strict=False):
        assert looks.count((color, marker, PALE_POINT["alpha"], "None")) == 1
        assert looks.count((color, "x", None, "None")) == 1


def test_a_chart_ends_where_its_points_do(tmp_path: Path) -> None:
    names = ("decode_tokens_per_s", "decode_tokens_per_s_ci_low", "decode_tokens_per_s_ci_high")
    values = dict(zip(names, (2360.0, 4.81, 926000.0), strict=True))
    rows = [h200.row(tmp_path, values, batch=batch) for batch in (1, 4, 2**31 - 1)]
    axes, *_ = charts_figure([("", chart) for chart in charts_of(of(rows).grids[0])]).axes
    assert axes.get_ylim() == (0, pytest.approx(2596))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "2.147G"]


def test_labels_of_points_do_not_overlap(results: Results) -> None:
    figure = charts(results)
    boxes = [text.get_window_extent() for text in figure.axes[1].texts]
    assert len(boxes) == 7
    assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]


def test_labels_of_crossings_do_not_overlap(results: Results) -> None:
    """Four of them near to each other, each with a place of its own beside it."""
    (chart,) = [one for one in charts_of(results.grids[0]) if one.name == "latency"]
    places = {"7,940": (10.0, 70000.0), "7,950": (10.5, 70500.0), "8,100": (10.2, 69000.0), "9,000": (10.0, 71000.0)}
    marks = tuple(Mark(*place, name) for name, place in places.items())
    figure = charts_figure([("", replace(chart, labeled=False, marks=marks))])
    figure.draw_without_rendering()
    boxes = [one.get_window_extent() for one in figure.axes[0].texts]
    assert len(boxes) == 4
    assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]


def test_a_configuration_of_two_sets_is_labeled_once(tmp_path: Path) -> None:
    """Its points lie on top of each other, and so would the labels."""
    two = results_of([RunSet("before", h200.rows(tmp_path / "1")), RunSet("after", h200.rows(tmp_path / "2"))], "")
    labels = charts(two).axes[1].texts
    assert sorted(label.get_text() for label in labels) == ["1,024"] * 3 + ["128"] * 2 + ["2,048", "8,192"]


def test_a_label_stands_where_it_hides_no_line(tmp_path: Path) -> None:
    """A line goes down: below and to the right of a point, where labels stand by default, it would run through one."""
    speeds = {128: 9000.0, 256: 5000.0, 512: 1000.0}
    rows = [
        h200.row(tmp_path, {"decode_tokens_per_s": speed, "decode_step_ms_p99": 1.0 + batch / 100}, batch=batch)
        for batch, speed in speeds.items()
    ]
    axes = charts(of(rows)).axes[1]
    points = [(1.0 + batch / 100, speed) for batch, speed in speeds.items()]
    x, y = axes.transData.transform(points).T
    places = [
        (x[i] + (x[i + 1] - x[i]) * k / 99, y[i] + (y[i + 1] - y[i]) * k / 99) for i in (0, 1) for k in range(100)
    ]
    (middle,) = (one for one in axes.texts if one.get_text() == "256")
    assert not any(middle.get_window_extent().contains(*place) for place in places)


def test_a_chart_has_the_batches_of_all(tmp_path: Path) -> None:
    """Also where energy was measured from batch 1024 on, and the lowest batch has its place within the axis."""
    kept = [
        row for row in h200.rows(tmp_path) if row.params["batch"] != "128" or not row.metrics.get("joules_per_token")
    ]
    throughput, _, _, energy = charts(of(kept)).axes
    assert energy.get_title(loc="left").startswith("Energy")
    low, high = energy.get_xlim()
    assert low < 0.9 * 128
    assert (low, high) == pytest.approx(throughput.get_xlim(), rel=1e-6)


def test_files(results: Results) -> None:
    figure = table_figure(results)
    assert figure_png(figure).startswith(b"\x89PNG")
    drawn = figure_svg(figure).decode()
    assert re.search(r"<text[^>]*>67,344</text>", drawn), "a text, in a font of the reader's"
    assert drawn == figure_svg(table_figure(results)).decode(), "the same bytes for the same runs"


def test_a_picture_has_room_for_so_many_rows(tmp_path: Path) -> None:
    values = {"decode_tokens_per_s": 1.0}
    rows = [
        h200.row(tmp_path, values, told={"ttt.verdict": "valid"}, genlen=1 + number) for number in range(MOST_ROWS + 3)
    ]
    results = of(rows)
    shown = texts(table_figure(results))
    assert sum("decode step" in text for text in shown) == MOST_ROWS
    assert "3 more rows: see the page or the Markdown" in shown[-1]
    (legend,) = charts(results).legends
    assert "3 more rows: see the page" in [text.get_text() for text in legend.get_texts()]


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    row = h200.row(tmp_path, {"decode_tokens_per_s": 1.0}, model_name=r"$\frac{1}$", inner_net=None)
    figure_png(table_figure(of([row])))
    figure_png(charts(of([row])))


def test_runs_without_a_number(tmp_path: Path) -> None:
    results = of([h200.row(tmp_path, {}, "oom")])
    assert "OOM" in texts(table_figure(results))
    assert not charts_of(results.grids[0])
    figure_png(charts_figure([]))

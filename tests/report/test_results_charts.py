"""The charts as data."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import h200
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.report.best_run import best_of, parse_limits
from ttt_mlflow.report.results import Results
from ttt_mlflow.report.results_charts import Chart, Point, apart, charts_of, pareto_front, x_ticks, y_range, y_ticks
from ttt_mlflow.report.results_grids import RunSet, results_of


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return of(h200.rows(tmp_path_factory.mktemp("h200")))


def of(rows: Sequence[RunRow]) -> Results:
    return results_of([RunSet("", rows)], "")


def charts(results: Results, limit: str | None = None) -> dict[str, Chart]:
    (grid,) = results.grids
    best = best_of(results, parse_limits(limit)) if limit else []
    return {chart.name: chart for chart in charts_of(grid, best)}


def points(chart: Chart) -> dict[str, list[tuple[float, float]]]:
    return {line.series.label: [(point.x, point.y) for point in line.points] for line in chart.lines}


def test_only_what_was_measured_has_a_chart(results: Results) -> None:
    assert list(charts(results)) == ["throughput", "latency", "memory", "energy"]


def test_throughput_over_batch_with_confidence_intervals(results: Results) -> None:
    chart = charts(results)["throughput"]
    assert points(chart) == {
        "mamba-1.4b": [(1024, 67344)],
        "ttt-1b mlp_1_dual_triton": [(128, 67641), (1024, 131109), (8192, 139837)],
        "ttt-1b mlp_2_dual_triton": [(128, 33412), (1024, 46712), (2048, 47378)],
    }
    assert chart.lines[0].points[0].low == 67257
    assert chart.y_title == "Decode throughput, tokens/s"
    assert not chart.y_logarithmic
    assert x_ticks(chart) == [128, 1024, 2048, 8192]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((12, 120), [10, 20, 50, 100]),
        ((16.5, 8256), [30, 100, 300, 1000, 3000, 10000]),
        ((16.5, 32768), [100, 1000, 10000]),
        ((5, 5), [5]),
    ],
)
def test_ticks_have_room_for_their_labels(values: tuple[float, float], ticks: list[float], results: Results) -> None:
    (line, *_) = charts(results)["latency"].lines
    ends = tuple(replace(line.points[0], x=value) for value in values)
    assert x_ticks(replace(charts(results)["latency"], lines=(replace(line, points=ends),))) == ticks


def test_energy_is_in_millijoules(results: Results) -> None:
    chart = charts(results)["energy"]
    assert points(chart)["mamba-1.4b"] == [(1024, pytest.approx(10.35))]
    assert chart.y_title == "Energy per token, mJ"


def test_memory_spans_decades(results: Results) -> None:
    chart = charts(results)["memory"]
    assert chart.y_logarithmic
    assert y_ticks(chart) == [5, 10, 20, 50, 100, 200]


def test_latency_has_the_pareto_front(results: Results) -> None:
    chart = charts(results)["latency"]
    assert chart.x_title == "decode step, p50, ms"
    assert chart.front == ((1.877, 67641), (7.662, 131109), (57.39, 139837))
    assert chart.limit is None


def test_the_latency_is_that_of_the_limit(results: Results) -> None:
    chart = charts(results, "decode_step_ms_p99 < 11")["latency"]
    assert chart.x_title == "decode step, p99, ms"
    assert (chart.limit, chart.best) == (11, (10.33, 131109))
    other = charts(results, "peak_memory_allocated_gb < 12")["latency"]
    assert (other.x_title, other.limit) == ("decode step, p50, ms", None)
    assert other.best == (1.877, 67641), "where the answer is, whatever the limit was"


def point(x: float, y: float) -> Point:
    return Point(x, y, None, None, 1, "valid", "")


def test_the_front() -> None:
    given = [point(1, 5), point(2, 4), point(3, 9), point(3, 10), point(4, 10), point(0.5, 1)]
    assert pareto_front(given) == ((0.5, 1), (1, 5), (3, 10))
    assert pareto_front([]) == ()


@pytest.mark.parametrize("others", [2000.0, 20.0])
def test_no_bar_decides_the_axis(tmp_path: Path, others: float) -> None:
    """A run of two passes has an interval that is hundreds of times its value; also on a logarithmic axis."""
    names = ("decode_tokens_per_s", "decode_tokens_per_s_ci_low", "decode_tokens_per_s_ci_high")
    wide = h200.row(tmp_path, dict(zip(names, (2360.0, 4.81, 926000.0), strict=True)), told={"ttt.verdict": "invalid"})
    chart = charts(of([wide, h200.row(tmp_path, {names[0]: others}, batch=2)]))["throughput"]
    low, high = y_range(chart)
    assert chart.y_logarithmic == (others < 100)
    assert others / 2 < low < others if chart.y_logarithmic else low == 0
    assert 2360 < high < 3100


def test_an_invalid_run_is_shown_but_not_on_the_front(tmp_path: Path) -> None:
    values = {"decode_tokens_per_s": 1000.0, "decode_step_ms_p50": 1.0}
    chart = charts(of([h200.row(tmp_path, values, told={"ttt.verdict": "invalid"})]))["latency"]
    assert chart.lines[0].points[0].state == "invalid"
    assert chart.front == ()


@pytest.mark.parametrize(
    ("batches", "kept"),
    [
        ([64], [64]),
        ([128, 256, 512, 1024, 2048, 4096, 8192], [128, 256, 512, 1024, 2048, 4096, 8192]),
        ([1000, 1024, 8192], [1024, 8192]),
        ([2**power for power in range(14)], [2.0, 8, 32, 128, 512, 2048, 8192]),
        ([1, *(10**power for power in range(9)), 2**31 - 1], [1.0, 100, 10_000, 1_000_000, 100_000_000, 2**31 - 1]),
    ],
)
def test_labels_of_an_axis_are_apart(batches: list[int], kept: list[float]) -> None:
    assert apart(batches) == kept

"""The saved views, as a person sees them: opened by their links in a browser, on a server with 200 runs.

Each test also writes a picture of what the window shows into its folder: pytest --basetemp FOLDER keeps them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.chromium import Chromium, chromium
from tests.record.conftest import MakeJournal
from tests.report.browser import BROWSER
from tests.tracking.many_runs import BATCHES, MODELS, configs, fill, log_run
from tests.tracking.mlflow_ui import KNOWN_VISITOR, open_charts, open_table
from ttt_mlflow import names
from ttt_mlflow.tracking.publish import publish
from ttt_mlflow.tracking.run_color import GRAY
from ttt_mlflow.tracking.view_states import (
    BEST,
    KERNELS,
    LATEST,
    MEMORY,
    NOT_VALID,
    PREFILL,
    VIEWS,
    Mode,
    View,
    description,
    view_link,
)
from ttt_mlflow.tracking.views import prepare_experiment
from ttt_mlflow.workload import PARTS

WIDTH, HEIGHT, TALL = 1600, 900, 4500  # in the tall window the table has all its rows in the page
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")


class Prepared:
    """An experiment with 201 runs, one of them a sweep's parent and one somebody else's, and its views."""

    def __init__(self, uri: str, database: Path) -> None:
        self.uri, self.client = uri, MlflowClient(uri)
        self.id = self.client.create_experiment("many runs")
        fill(MlflowClient(f"sqlite:///{database}"), self.id, self.client)
        prepare_experiment(self.client, self.client.get_experiment(self.id))
        self.runs = list(self.client.search_runs([self.id], order_by=["attributes.start_time DESC"]))

    def newest(self, kind: str) -> list[Run]:
        return [run for run in self.runs if run.data.tags.get("ttt.kind") == kind][:100]

    def link(self, view: View, mode: Mode) -> str:
        assert mode in view.modes
        return view_link(self.uri, self.id, view, mode)


@pytest.fixture(scope="module")
def many(server_uri: str, server_folder: Path) -> Prepared:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        return Prepared(server_uri, server_folder / "server.db")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("browser"), WIDTH, HEIGHT) as browser:
        browser.before_each_page(KNOWN_VISITOR)
        yield browser


def ids(runs: list[Run]) -> list[str]:
    return [run.info.run_id for run in runs]


def drawn(runs: list[Run], x: str, y: str) -> list[tuple[str, float, float, str]]:
    """The points that a chart of ``runs`` has: a run without the metric has none."""
    return sorted(
        (run.info.run_id, float(run.data.params[x]), run.data.metrics[y], run.data.tags["mlflow.runColor"])
        for run in runs
        if y in run.data.metrics
    )


def check_scatters(charts: list[dict[str, Any]], runs: list[Run], axes: list[tuple[str, str]]) -> None:
    assert [(chart["x"], chart["y"]) for chart in charts] == axes
    for chart, (x, y) in zip(charts, axes, strict=True):
        points = sorted((run, float(one), float(two), color) for run, one, two, color in chart["points"])
        assert points == drawn(runs, x, y)


def table_of(page: Chromium, link: str, picture: Path) -> tuple[list[str], list[str]]:
    """The columns in a usual window, and all rows."""
    columns, _ = open_table(page, link)
    page.picture(picture)
    page.resize(WIDTH, TALL)
    try:
        _, rows = open_table(page, link)
    finally:
        page.resize(WIDTH, HEIGHT)
    return columns, rows


@pytest.mark.long
def test_there_are_200_runs_of_every_kind(many: Prepared) -> None:
    kinds = [run.data.tags.get("ttt.kind", "of somebody else") for run in many.runs]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "decode": 177,
        "prefill": 16,
        "micro": 6,
        "sweep": 1,
        "of somebody else": 1,
    }


@needs_browser
@pytest.mark.long
def test_latest_draws_the_newest_100_decode_runs(many: Prepared, page: Chromium, tmp_path: Path) -> None:
    charts = open_charts(page, many.link(LATEST, "CHART"), 2)
    page.picture(tmp_path / "latest.png")
    newest = many.newest("decode")
    assert len(newest) == 100
    check_scatters(charts, newest, [("batch", "decode_tokens_per_s"), ("batch", "decode_step_ms_p50")])
    # the series have their colors, and what is not valid is gray
    colors: dict[str, set[str]] = {}
    for run in newest:
        colors.setdefault(run.data.tags["ttt.series"], set()).add(run.data.tags["mlflow.runColor"])
    assert colors.pop("not valid") == {GRAY}
    assert len(colors) == len(MODELS)
    assert len(set.union(*colors.values())) == len(MODELS)
    assert re.search(r"Benchmark\s*\(2\).*Model metrics", page.text(), re.DOTALL)


@needs_browser
@pytest.mark.long
def test_latest_lists_its_columns_and_the_newest_first(many: Prepared, page: Chromium, tmp_path: Path) -> None:
    columns, rows = table_of(page, many.link(LATEST, "TABLE"), tmp_path / "latest-table.png")
    assert [column.partition("`")[2].strip("`") for column in columns if "`" in column] == [
        "Run Name",
        *("model_name", "inner_net", "batch", "dtype", "decode_tokens_per_s", "relative_half_width_pct"),
        *("ttt.verdict", "roofline_pct"),
    ]
    assert rows[:100] == ids(many.newest("decode"))


@needs_browser
@pytest.mark.long
def test_best_has_one_run_of_each_configuration(many: Prepared, page: Chromium, tmp_path: Path) -> None:
    best: dict[str, Run] = {}
    for run in many.runs:
        if run.data.tags.get("ttt.kind") == "decode" and run.data.tags.get("ttt.verdict") == "valid":
            one = best.setdefault(run.data.tags["ttt.config_id"], run)
            if run.data.metrics["decode_tokens_per_s"] > one.data.metrics["decode_tokens_per_s"]:
                best[run.data.tags["ttt.config_id"]] = run
    assert len(best) == len(MODELS) * len(BATCHES) + 4  # no small batch is missing, nor a profiled configuration
    charts = open_charts(page, many.link(BEST, "CHART"), 4)
    page.picture(tmp_path / "best.png")
    check_scatters(charts[:2], list(best.values()), [("batch", "decode_tokens_per_s"), ("batch", "roofline_pct")])
    _, rows = table_of(page, many.link(BEST, "TABLE"), tmp_path / "best-table.png")
    groups = [row for row in rows if row not in ids(list(best.values()))]
    assert len(groups) == len(MODELS)
    assert all("Group: " in group for group in groups)
    assert sorted(set(rows) - set(groups)) == sorted(ids(list(best.values())))


@needs_browser
@pytest.mark.long
def test_memory_and_energy(many: Prepared, page: Chromium, tmp_path: Path) -> None:
    charts = open_charts(page, many.link(MEMORY, "CHART"), 4)
    page.picture(tmp_path / "memory.png")
    wanted = ["peak_memory_allocated_gb", "joules_per_token", "power_w_mean", "sm_clock_mhz_mean"]
    check_scatters(charts, many.newest("decode"), [("batch", metric) for metric in wanted])


@needs_browser
@pytest.mark.long
def test_not_valid_lists_every_such_run_with_its_reason(many: Prepared, page: Chromium, tmp_path: Path) -> None:
    columns, rows = table_of(page, many.link(NOT_VALID, "TABLE"), tmp_path / "not-valid.png")
    wrong = [
        run for run in many.runs if run.data.tags.get("ttt.verdict") == "invalid" or run.data.tags.get("ttt.message")
    ]
    assert len(wrong) > 10
    assert rows == ids(wrong)
    assert {"tags.`ttt.status`", "tags.`ttt.verdict`", "tags.`ttt.reasons`", "tags.`ttt.message`"} <= set(columns)
    for text in ("clocks_dropped", "other_processes", "out of GPU memory"):
        assert text in page.text()


@needs_browser
@pytest.mark.long
def test_prefill(many: Prepared, page: Chromium, tmp_path: Path) -> None:
    charts = open_charts(page, many.link(PREFILL, "CHART"), 4)
    page.picture(tmp_path / "prefill.png")
    assert len(many.newest("prefill")) == 16
    wanted = [(x, y) for x in ("promptlen", "batch") for y in ("prefill_tokens_per_s", "prefill_ms")]
    check_scatters(charts, many.newest("prefill"), wanted)


@needs_browser
@pytest.mark.long
def test_kernels_stand_side_by_side(many: Prepared, page: Chromium, tmp_path: Path) -> None:
    profiled = [run for run in many.runs if run.data.params.get("profile") == "torch"]
    assert len(profiled) == 4
    page.open(many.link(KERNELS, "ARTIFACT"))
    page.wait_for("document.body?.innerText.includes('sampling_kernel')")
    page.picture(tmp_path / "kernels.png")
    text = page.text()
    assert re.search(r"Compare:\s*us_per_step", text)
    assert "4 matching runs" in text
    for run in profiled[:2]:  # the others are to the right of the window
        assert f"{run.data.metrics[names.PART_US.of(PARTS[0]).name]:g}" in text
    charts = open_charts(page, many.link(KERNELS, "CHART"), len(PARTS))
    page.picture(tmp_path / "kernels-charts.png")
    assert [sorted(run for run, *_ in chart["points"]) for chart in charts[:2]] == [sorted(ids(profiled))] * 2


@needs_browser
@pytest.mark.long
def test_the_compare_page_of_four_runs_begins_with_the_headline(many: Prepared, page: Chromium, tmp_path: Path) -> None:
    four = [run for run in many.newest("decode") if run.data.params["batch"] == "64"][:4]
    page.open(
        f"{many.uri}/#/compare-runs?runs={quote(json.dumps(ids(four)))}&experiments={quote(json.dumps([many.id]))}"
    )
    page.wait_for(
        "document.querySelectorAll('.main-svg .axis-title').length > 0 || document.querySelector('.parcoords')"
    )
    page.picture(tmp_path / "compare.png")
    assert "Comparing 4 Runs" in page.text()
    axes = json.loads(page.ask("JSON.stringify([...document.querySelectorAll('.axis-title')].map(e => e.textContent))"))
    assert axes == ["inner_net", "model_name", "decode_tokens_per_s"]


@needs_browser
@pytest.mark.long
def test_a_runs_page_begins_with_its_description_and_the_headline(
    server_uri: str, make_journal: MakeJournal, page: Chromium, tmp_path: Path
) -> None:
    published = publish(make_journal(), server_uri, experiment_name="one run")
    assert published.run_url
    page.open(published.run_url)
    page.wait_for("document.body?.innerText.includes('decode_tokens_per_s')")
    page.picture(tmp_path / "run.png")
    text = page.text()
    order = [text.index(part) for part in ("a run", "decode_tokens_per_s", "decode_step_ms_p50", "batch")]
    assert order == sorted(order)


@needs_browser
@pytest.mark.long
def test_the_first_line_of_the_description_opens_the_views(
    server_uri: str, page: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    client = MlflowClient(server_uri)
    experiment_id = client.create_experiment("described")
    for number, config in enumerate(configs("decode")):
        if number % 8 == 0:  # one of each model
            log_run(client, experiment_id, number, config, number)
    prepare_experiment(client, client.get_experiment(experiment_id))
    page.open(f"{server_uri}/#/experiments/{experiment_id}/runs?workflowType=machine_learning")
    page.wait_for(f"document.body?.innerText.includes('{KERNELS.name}')")
    page.wait_for("document.querySelectorAll('.ag-row').length > 1")
    page.picture(tmp_path / "description.png")
    targets = "JSON.stringify(Object.fromEntries([...document.querySelectorAll('a')].map(a => [a.innerText, a.href])))"
    links = json.loads(page.ask(targets))
    assert {view.name: links[view.name] for view in VIEWS} == {
        view.name: view_link(server_uri, experiment_id, view) for view in VIEWS
    }


# without a browser


def test_ids_and_names_are_unique() -> None:
    assert len({view.id for view in VIEWS}) == len({view.name for view in VIEWS}) == len(VIEWS)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.id)
def test_a_view_separates_what_does_not_belong_in_one_table(view: View) -> None:
    # a run of somebody else has none of these tags
    assert "tags.`ttt.kind`" in view.condition or "tags.`ttt.series`" in view.condition


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.id)
def test_no_view_is_sorted_so_that_mlflow_folds_the_runs_of_a_sweep(view: View) -> None:
    """The tests in a browser show that it does; these are quick."""
    assert view.state()["orderByKey"] != "attributes.start_time"
    assert view is BEST or view.state()["orderByKey"] == "tags.`ttt.journal_id`"


def test_the_link_has_all_that_mlflow_needs() -> None:
    assert view_link("http://host:5000/", "7", LATEST) == (
        "http://host:5000/#/experiments/7/runs?viewStateShareKey=ttt-latest&workflowType=machine_learning"
        "&compareRunsMode=CHART"
    )
    assert view_link("", "7", KERNELS, "TABLE") == (
        "/#/experiments/7/runs?viewStateShareKey=ttt-kernels&workflowType=machine_learning"
    )


def test_the_first_line_of_the_description_is_the_links() -> None:
    first = description("7").splitlines()[0]
    assert re.findall(r"\[([^]]+)\]\((#[^)]+)\)", first) == [
        (view.name, view_link("", "7", view).lstrip("/")) for view in VIEWS
    ]

"""The page of a report: what is in it, and what a browser without a network makes of it, opened by itself."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import Chromium, chromium
from tests.report import h200
from tests.report.browser import BROWSER
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.report.best_run import best_of, parse_limits
from ttt_mlflow.report.results import Results
from ttt_mlflow.report.results_grids import RunSet, results_of
from ttt_mlflow.report.results_page import page_data, results_html
from ttt_mlflow.report.style import SAFE_COLORS

needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
EVIL = "</script><img src=x onerror=alert(1)>"
MAMBA_256 = {"batch": 256, "genlen": 128, **h200.model_of(None)}


def rows(root: Path) -> Sequence[RunRow]:
    """The runs on an H200, and one more that is invalid."""
    told = {"ttt.verdict": "invalid", "ttt.reasons": "wide_interval"}
    return [*h200.rows(root), h200.row(root, {"decode_tokens_per_s": 1234.0}, told=told, **MAMBA_256)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    found = rows(tmp_path_factory.mktemp("h200"))
    links = {row.id: f"http://127.0.0.1:5000/#/experiments/1/runs/{row.id}" for row in found}
    return results_of([RunSet("h200", found)], "On an H200", links=links, notes=["a note"])


@pytest.fixture(scope="module")
def page(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    folder = tmp_path_factory.mktemp("page")
    best = best_of(results, parse_limits("decode_step_ms_p99 < 11"))
    (folder / "results.html").write_bytes(results_html(results, best))
    with chromium(folder, 1500, 1000) as browser:
        browser.open((folder / "results.html").as_uri())
        browser.wait_for("document.body?.dataset.ready")
        yield browser


def ask(page: Chromium, expression: str) -> Any:
    return json.loads(page.ask(f"JSON.stringify({expression})"))


TABLE = """(heading => {
  let found = [...document.querySelectorAll('h3')].find(one => one.textContent.startsWith(heading));
  while (!found.matches('.wide')) found = found.nextElementSibling.querySelector('.wide') ?? found.nextElementSibling;
  const rows = [...found.querySelectorAll('tr')];
  return rows.map(row => [...row.cells].map(cell => cell.innerText.replaceAll('\\n', ' ')));
})(%s)"""
LISTED = "[...document.querySelectorAll('#list tbody tr')].map(row => [...row.cells].map(cell => cell.innerText))"
GIVE = """(([place, value, event]) => {
  const one = document.querySelector(place);
  one.value = value;
  one.dispatchEvent(new Event(event));
})(%s)"""


def table(page: Chromium, heading: str) -> list[list[str]]:
    """The texts of the table below a heading."""
    rows: list[list[str]] = ask(page, TABLE % json.dumps(heading))
    return rows


def listed(page: Chromium) -> list[list[str]]:
    rows: list[list[str]] = ask(page, LISTED)
    return rows


def give(page: Chromium, place: str, value: str, event: str) -> None:
    """Give a value to a field, as a person would."""
    page.ask(GIVE % json.dumps([place, value, event]))


def test_the_data_is_small(results: Results) -> None:
    data = page_data(results, [])
    assert len(json.dumps(data)) < 10_000 + 700 * len(results.runs)
    assert all(len(run) == len(data["fields"]) for run in data["runs"])


def test_it_needs_nothing_from_elsewhere(results: Results) -> None:
    text = results_html(results).decode()
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    rest = text.replace(script[1], "")
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", rest)


@needs_browser
def test_the_throughput_table(page: Chromium) -> None:
    head, mamba, linear, mlp = table(page, "Decode throughput, tokens/s")
    assert head == ["batch", "128", "256", "1,024", "2,048", "8,192"]
    assert mamba == ["mamba-1.4b not compiled", "", "1,234", "67,344 [67,257, 67,401]", "", ""]
    assert linear[3:] == ["131,109 [130,799, 131,308]", "", "139,837? [139,418, 140,257]"]
    assert mlp[-1] == "OOM"


@needs_browser
def test_invalid_is_gray_and_out_of_memory_hatched_with_the_reason_on_hover(page: Chromium) -> None:
    cells = ask(page, "[...document.querySelectorAll('td.invalid, td.oom')].map(cell => [cell.className, cell.title])")
    (invalid, *_) = [title for kind, title in cells if kind == "invalid"]
    assert "invalid: wide_interval" in invalid
    (oom, *_) = [title for kind, title in cells if kind == "oom"]
    assert oom == "out of memory: CUDA out of memory"
    assert "gradient" in page.ask("getComputedStyle(document.querySelector('td.oom')).backgroundImage")


@needs_browser
def test_speed_ups_follow_the_chosen_row(page: Chromium) -> None:
    assert table(page, "Throughput against")[2][3] == "1.95× [1.94, 1.95]"
    give(page, "h3 select", "1", "change")
    _, *rows = table(page, "Throughput against")
    assert [row[3] for row in rows] == ["0.51× [0.51, 0.52]", "1.00×", "0.36× [0.36, 0.36]"]
    assert rows[0][2] == "", "an invalid number takes no part"


@needs_browser
def test_two_sets(tmp_path: Path) -> None:
    """The list says of which set a run is, and one configuration is compared to the per mille."""
    valid = {"ttt.verdict": "valid"}
    rows = [h200.row(tmp_path, {"decode_tokens_per_s": speed}, told=valid) for speed in (100_000.0, 100_300.0)]
    results = results_of([RunSet("one GPU", rows[:1]), RunSet("two GPUs", rows[1:])], "")
    (tmp_path / "results.html").write_bytes(results_html(results))
    with chromium(tmp_path, 1500, 1000) as browser:
        browser.open((tmp_path / "results.html").as_uri())
        browser.wait_for("document.body?.dataset.ready")
        assert [row[1] for row in table(browser, "Throughput against")[1:]] == ["1.000×", "1.003×"]
        heads = ask(browser, "[...document.querySelectorAll('#list thead th')].map(one => one.innerText)")
        at = heads.index("set")
        assert sorted(row[at] for row in listed(browser)) == ["one GPU", "two GPUs"]
        titles = ask(browser, "[...document.querySelectorAll('td[title]')].map(one => one.title)")
        assert any("two GPUs" in title for title in titles), "on hover"


@needs_browser
def test_the_charts(page: Chromium) -> None:
    drawn = ask(
        page,
        "[...document.querySelectorAll('.chart')].map(one => [one.dataset.chart, one.layout.yaxis.title.text, "
        "one.data.map(trace => [trace.name, [...trace.x], [...trace.y], !!trace.error_y?.array])])",
    )
    charts = {name: (title, {trace[0]: trace[1:] for trace in traces}) for name, title, traces in drawn}
    assert list(charts) == ["throughput", "latency", "memory", "energy"]
    title, traces = charts["throughput"]
    assert title == "Decode throughput, tokens/s"
    assert traces["ttt-1b mlp_1_dual_triton"] == [[128, 1024, 8192], [67641, 131109, 139837], True]
    _, latency = charts["latency"]
    assert latency["Pareto front"][:2] == [[2.184, 10.33, 77.86], [67641, 131109, 139837]]
    assert latency["best within the limit"][:2] == [[10.33], [131109]]
    hover = page.ask("document.querySelector('.chart').data[0].text[0]")
    assert "67,344" in hover
    assert page.ask("document.querySelectorAll('.chart .main-svg').length") >= 4


@needs_browser
def test_the_answer_and_the_notes(page: Chromium) -> None:
    assert page.ask("document.getElementById('best').innerText").startswith(
        "Best decode under decode_step_ms_p99 < 11: "
    )
    assert page.ask("document.getElementById('notes').innerText") == "a note"


@needs_browser
def test_runs_are_searched_and_sorted(page: Chromium) -> None:
    give(page, "#search", "mlp_1 VALID", "input")
    assert [row[4] for row in listed(page)] == ["1,024", "128"]
    assert page.ask("document.getElementById('count').innerText") == "2 of 9 runs"
    give(page, "#search", "", "input")
    click = "[...document.querySelectorAll('#list th')].find(one => one.innerText === 'tokens/s').click()"
    page.ask(click)
    rates = [row[5] for row in listed(page)]
    assert rates == ["139,837", "131,109", "67,641", "67,344", "47,378", "46,712", "33,412", "1,234", ""]
    page.ask(click)
    assert [row[5] for row in listed(page)] == [*rates[-2::-1], ""], "what has no value comes last in both directions"


@needs_browser
def test_opened_by_itself_it_leads_to_the_runs(page: Chromium, results: Results) -> None:
    links = ask(page, "[...document.querySelectorAll('td a')].map(one => [one.getAttribute('href'), one.target])")
    known = set(results.links.values())
    assert {link for link, _ in links} <= known
    assert {target for _, target in links} == {"_blank"}
    assert not page.ask("document.body.classList.contains('framed')")


@needs_browser
def test_only_invalid_runs(tmp_path: Path) -> None:
    """As after a first run on a CPU: points that are told apart, an axis that no bar decides, no empty table."""
    names = ("decode_tokens_per_s", "decode_tokens_per_s_ci_low", "decode_tokens_per_s_ci_high")
    rows = []
    for net, values in ((h200.LINEAR, (278.0, 7.17, 3240.0)), (None, (2360.0, 4.81, 926000.0))):
        told = {"ttt.verdict": "invalid"}
        rows.append(h200.row(tmp_path, dict(zip(names, values, strict=True)), told=told, **h200.model_of(net)))
    (tmp_path / "results.html").write_bytes(results_html(results_of([RunSet("", rows)], "")))
    with chromium(tmp_path, 1500, 1000) as browser:
        browser.open((tmp_path / "results.html").as_uri())
        browser.wait_for("document.body?.dataset.ready")
        drawn = "document.querySelector('.chart')"
        traces = ask(browser, f"{drawn}.data.map(one => [one.marker.symbol, one.marker.color, one.mode])")
        assert traces == [
            *([["circle"], SAFE_COLORS[0], "markers"], ["x-thin-open", SAFE_COLORS[0], "markers"]),
            *([["square"], SAFE_COLORS[1], "markers"], ["x-thin-open", SAFE_COLORS[1], "markers"]),
        ]
        assert ask(browser, f"{drawn}.layout.yaxis.range") == [0, pytest.approx(2596)]
        browser.ask("document.querySelector('.legends input').click()")  # hides mamba's
        assert ask(browser, f"{drawn}.layout.yaxis.range") == [0, pytest.approx(305.8)]
        assert table(browser, "Decode throughput")[2] == [f"ttt-1b {h200.LINEAR} compiled", "278 [7.17, 3,240]"]
        assert "None, because it has no number that is not invalid." in browser.text()
        assert {row[5] for row in listed(browser)} == {"278", "2,360"}


@needs_browser
def test_a_thousand_runs_and_what_others_wrote(tmp_path: Path) -> None:
    """Any text of a record is shown as text, in any number of runs, and the page stays usable."""
    told = {"ttt.verdict": "invalid", "ttt.reasons": EVIL}
    row = h200.row(tmp_path, {"decode_tokens_per_s": 1234.0}, told=told, model_name=EVIL, inner_net=None)
    results = results_of([RunSet("a", [row] * 1000)], EVIL)
    (tmp_path / "page.html").write_bytes(results_html(results))
    with chromium(tmp_path) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.wait_for("document.body?.dataset.ready")
        assert browser.ask("document.querySelectorAll('img').length") == 0
        assert browser.ask("document.querySelector('h1').innerText") == EVIL
        assert len(listed(browser)) == 1000
        assert EVIL in listed(browser)[0][3]

"""A report among the artifacts of a run, as a person sees it in MLflow: the page in its frame, and the Markdown.

Each test also writes a picture of what the window shows into its folder: pytest --basetemp FOLDER keeps them.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.chromium import Chromium, chromium
from tests.report import h200
from tests.report.browser import BROWSER
from tests.tracking.mlflow_ui import KNOWN_VISITOR
from ttt_mlflow import names
from ttt_mlflow.app.report import report_on
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.tracking.publish import publish

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
LISTED = """JSON.stringify([...document.querySelectorAll('#list tbody tr')].map(
    row => [row.querySelector('.name').innerText, row.querySelector('.id').innerText]))"""
LEADS_TO = """JSON.stringify([...new Set([...document.querySelectorAll('a')].map(one => one.getAttribute('href')))])"""
FRAME = "document.querySelector('iframe')"


@pytest.fixture(scope="module")
def parent(server_uri: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The place of a run that has the report on eight others, and the ids of these by their names."""
    folder = tmp_path_factory.mktemp("records")
    journals = h200.records(folder)
    published = [publish(journal, server_uri, None, "results") for journal in journals]
    paths = report_on([LocalRun(journal) for journal in journals], folder / "results", title="Eight runs on an H200")
    client = MlflowClient(server_uri)
    run = client.create_run(published[0].experiment_id)
    for path in paths:
        client.log_artifact(run.info.run_id, str(path), Path(names.ARTIFACT_RESULTS_PAGE.path).parent.as_posix())
    ids = {journal.run_name: one.run_id for journal, one in zip(journals, published, strict=True)}
    return f"{server_uri}/#/experiments/{published[0].experiment_id}/runs/{run.info.run_id}", ids


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("browser"), 1600, 1100) as browser:
        browser.before_each_page(KNOWN_VISITOR)
        yield browser


def test_the_page_in_its_frame(parent: tuple[str, dict[str, str]], browser: Chromium, tmp_path: Path) -> None:
    """No link leaves the frame: names and ids are there to copy, and a number leads to its run in the list."""
    place, ids = parent
    browser.open(f"{place}/artifacts/{names.ARTIFACT_RESULTS_PAGE.path}")
    browser.wait_for(f"!!{FRAME}")
    with browser.frame():
        browser.wait_for("document.body?.dataset.ready")
        assert browser.ask("document.querySelector('h1').innerText") == "Eight runs on an H200"
        assert browser.ask("document.querySelectorAll('.chart .main-svg').length") >= 4
        assert "No link leaves this frame" in browser.text()
        assert json.loads(browser.ask(LEADS_TO)) == ["#"]
        shown = json.loads(browser.ask(LISTED))
        assert dict(shown) == ids
        assert browser.ask("getComputedStyle(document.querySelector('#list td.id')).userSelect") == "all"
        browser.ask("[...document.querySelectorAll('td a')].find(one => one.innerText === '131,109').click()")
        found = browser.ask("document.querySelector('#list tr.found td.name').innerText")
        assert found == "ttt-1b mlp_1_dual_triton b1024 g128"
    browser.picture(tmp_path / "frame.png")


def test_the_markdown_leads_to_the_runs(parent: tuple[str, dict[str, str]], browser: Chromium, tmp_path: Path) -> None:
    place, ids = parent
    browser.open(f"{place}/artifacts/{names.ARTIFACT_RESULTS_MARKDOWN.path}")
    browser.wait_for("document.querySelectorAll('a[href*=\"/runs/\"]').length > 8")
    browser.picture(tmp_path / "markdown.png")
    browser.ask("[...document.querySelectorAll('a')].find(one => one.innerText === '131,109').click()")
    run_id = ids["ttt-1b mlp_1_dual_triton b1024 g128"]
    browser.wait_for(f"location.hash.includes({json.dumps(run_id)})")
    browser.wait_for("document.body.innerText.includes('ttt-1b mlp_1_dual_triton b1024 g128')")

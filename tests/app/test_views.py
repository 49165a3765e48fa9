"""The command ``views`` and the links that a run prints."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tests.project import new_store
from ttt_mlflow.app.views import ui_lines
from ttt_mlflow.cli import cli
from ttt_mlflow.tracking.publish import PublishedRun
from ttt_mlflow.tracking.view_states import VIEWS, WORDS, view_link

OLD_ROWS = Path(__file__).parents[1] / "tracking/store_of_0_1.sql"
BASE = "http://127.0.0.1:5000"


@pytest.fixture
def store(tmp_path: Path) -> str:
    return new_store(tmp_path)


@pytest.fixture
def invoke(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli, ["views", *arguments])


def test_the_views_of_an_experiment(invoke: Callable[..., Result], store: str) -> None:
    experiment_id = MlflowClient(store).create_experiment("mine")
    result = invoke("--experiment-name", "mine")
    assert result.exit_code == 0, result.output
    assert f"mine: written: {', '.join(view.name for view in VIEWS)}, description\n" in result.stdout
    assert f"mlflow ui --backend-store-uri {store}" in result.stdout
    for view in VIEWS:
        for mode in view.modes:
            assert f"{view.name}, {WORDS[mode]}: {view_link(BASE, experiment_id, view, mode)}\n" in result.stdout
    assert "mine: written: nothing, all is up to date" in invoke("--experiment-name", "mine").stdout
    MlflowClient(store).set_experiment_tag(experiment_id, "mlflow.note.content", "Our notes")
    assert "mine: kept, because a person changed it: description\n" in invoke("--experiment-name", "mine").stdout


def test_older_runs_are_updated_when_asked(invoke: Callable[..., Result], store: str) -> None:
    MlflowClient(store).search_experiments()  # makes the tables
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as connection:
        connection.executescript(OLD_ROWS.read_text())
    result = invoke()
    assert result.exit_code == 0, result.output
    assert "Note: the views do not show older runs in Default" in result.stdout
    result = invoke("--update-runs")
    assert result.exit_code == 0, result.output
    assert "Default: 2 runs, 2 updated;" in result.stdout
    assert "Note:" not in result.stdout
    assert "Default: 2 runs, 0 updated;" in invoke("--update-runs").stdout


@pytest.mark.parametrize("arguments", [["--experiment-name", "nowhere"], []])
def test_no_such_experiment(invoke: Callable[..., Result], arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "no such experiment" in result.stderr or "no run of ttt-mlflow in the experiments" in result.stderr


def test_there_is_no_store(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("--tracking-uri", f"sqlite:///{tmp_path}/none.db")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: tracking_uri=sqlite:///{tmp_path}/none.db: cannot be read (there is no {tmp_path}/none.db); "
        "`ttt-mlflow doctor` checks the store\n"
    )
    assert not (tmp_path / "none.db").exists()


def test_a_server_that_refuses(invoke: Callable[..., Result], store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment_id = MlflowClient(store).create_experiment("mine")

    def refuse(*_: object) -> None:
        raise MlflowException("403: you may not edit this experiment")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    result = invoke("--experiment-name", "mine")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: tracking_uri={store}: cannot be written (403: you may not edit this experiment); "
        "`ttt-mlflow doctor` checks the store\n"
    )
    assert MlflowClient(store).get_experiment(experiment_id).tags == {}


# The links of a run


def published(uri: str, run_url: str | None, has_views: bool = True) -> PublishedRun:
    return PublishedRun("f" * 32, "7", uri, run_url, has_views)


def test_links_on_a_server() -> None:
    url = "http://host:5000/#/experiments/7/runs/" + "f" * 32
    view = "http://host:5000/#/experiments/7/runs?viewStateShareKey=ttt-latest&workflowType=machine_learning"
    assert ui_lines(published("http://host:5000", url), "decode") == [
        f"MLflow UI: {url}",
        f"Latest 100, charts: {view}&compareRunsMode=CHART",
        f"Latest 100, table: {view}",
    ]
    assert "viewStateShareKey=ttt-prefill" in ui_lines(published("http://host:5000", url), "prefill")[1]
    assert ui_lines(published("http://host:5000", url, has_views=False), "decode") == [f"MLflow UI: {url}"]
    assert ui_lines(published("http://host:5000", url), "micro") == [f"MLflow UI: {url}"]


def test_links_to_a_file_begin_with_the_command_that_opens_the_ui() -> None:
    command, run, charts, table = ui_lines(published("sqlite:////srv/mlflow.db", None), "decode")
    assert command.endswith("mlflow ui --backend-store-uri sqlite:////srv/mlflow.db")
    assert run == f"This run: {BASE}/#/experiments/7/runs/" + "f" * 32
    assert charts.startswith(f"Latest 100, charts: {BASE}/#/experiments/7/runs?viewStateShareKey=ttt-latest")
    assert table.startswith(f"Latest 100, table: {BASE}/#/experiments/7/runs?viewStateShareKey=ttt-latest")

"""Runs that version 0.1 recorded: a store as it left it, with a decode and a prefill run of a CPU."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.project import new_store
from ttt_mlflow.tracking.run_color import GRAY
from ttt_mlflow.tracking.update_runs import Updated, update_runs

WRITTEN = Path(__file__).with_name("store_of_0_1.sql")
DECODE, PREFILL = "838e5a8dce0448a584ea2e065478b000", "7277350434e74f2f97dfc0e4d22ab4d2"


@pytest.fixture
def old_store(tmp_path: Path) -> MlflowClient:
    """A store with the rows that version 0.1 wrote, in the tables of the installed MLflow."""
    store = new_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.executescript(WRITTEN.read_text())
    return MlflowClient(store)


def told(progress: list[str]) -> None:
    assert progress[-1] == "2 of 2 runs updated"


def test_what_the_parameters_determine_is_added(old_store: MlflowClient) -> None:
    before = {run_id: old_store.get_run(run_id).data for run_id in (DECODE, PREFILL)}
    progress: list[str] = []
    assert update_runs(old_store, "0", progress.append) == Updated(runs=2, changed=2, marked=0)
    told(progress)
    decode, prefill = (old_store.get_run(run_id).data for run_id in (DECODE, PREFILL))
    assert {name: decode.metrics[name] for name in decode.metrics.keys() - before[DECODE].metrics.keys()} == {
        "batch": 2.0,
        "promptlen": 1.0,
        "genlen": 16.0,
    }
    assert {name: prefill.metrics[name] for name in prefill.metrics.keys() - before[PREFILL].metrics.keys()} == {
        "batch": 1.0,
        "promptlen": 16.0,
    }
    for after, kind in ((decode, "decode"), (prefill, "prefill")):
        assert after.tags["ttt.kind"] == kind
        assert after.tags["ttt.method"] == "1"
        # measured on a CPU: unjudged
        assert (after.tags["ttt.series"], after.tags["mlflow.runColor"]) == ("not valid", GRAY)
    for run_id, after in ((DECODE, decode), (PREFILL, prefill)):
        assert before[run_id].metrics.items() <= after.metrics.items()
        assert before[run_id].tags.items() <= after.tags.items()
        assert before[run_id].params == after.params


def test_again_adds_nothing(old_store: MlflowClient) -> None:
    update_runs(old_store, "0", lambda _: None)
    before = [old_store.get_run(run_id).to_dictionary() for run_id in (DECODE, PREFILL)]
    assert update_runs(old_store, "0", lambda _: None) == Updated(runs=2, changed=0, marked=0)
    assert [old_store.get_run(run_id).to_dictionary() for run_id in (DECODE, PREFILL)] == before
    assert len(old_store.get_metric_history(DECODE, "batch")) == 1


def test_a_valid_run_gets_its_color_and_the_mark(old_store: MlflowClient) -> None:
    old_store.set_tag(DECODE, "ttt.verdict", "valid")
    assert update_runs(old_store, "0", lambda _: None) == Updated(runs=2, changed=2, marked=1)
    tags = old_store.get_run(DECODE).data.tags
    assert (tags["ttt.series"], tags["ttt.best"]) == ("ttt-profile mlp_1_dual", "true")
    assert tags["mlflow.runColor"] != GRAY


def test_others_and_unfinished_runs_are_left_alone(old_store: MlflowClient) -> None:
    foreign = old_store.create_run("0")
    old_store.set_terminated(foreign.info.run_id)
    going_on = old_store.create_run("0", tags={"ttt.entry_point": "main"})
    assert update_runs(old_store, "0", lambda _: None).runs == 2
    assert not [name for name in old_store.get_run(foreign.info.run_id).data.tags if name.startswith("ttt.")]
    assert "ttt.kind" not in old_store.get_run(going_on.info.run_id).data.tags


@pytest.mark.parametrize(
    ("used", "series"),
    [({"inner_net": "mlp_2_dual_triton"}, "ttt-1b mlp_2_dual_triton"), ({"inner_net": None}, "ttt-1b")],
)
def test_what_mlflow_run_logged_as_auto_is_read_from_the_record(
    old_store: MlflowClient, used: dict[str, str | None], series: str
) -> None:
    tags = {"ttt.entry_point": "main", "ttt.status": "ok", "ttt.verdict": "valid"}
    run_id = old_store.create_run("0", tags=tags).info.run_id
    for name, value in {"model_name": "ttt-1b", "inner_net": "auto", "mode": "decode", "batch": "4"}.items():
        old_store.log_param(run_id, name, value)
    old_store.log_text(run_id, json.dumps({"asked": {}, "used": used}), "config.json")
    old_store.set_terminated(run_id)
    update_runs(old_store, "0", lambda _: None)
    assert old_store.get_run(run_id).data.tags["ttt.series"] == series

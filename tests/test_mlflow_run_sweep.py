"""A sweep as processes: `mlflow run -e sweep`, killed at its worst moment and resumed, and Ctrl-C."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.project import ROOT, environment, mlflow_run, new_store, run, started, wait_until
from tests.tracking.conftest import server_folder, server_uri

__all__ = ["server_folder", "server_uri"]

# each run takes a moment, so that a signal finds one that measures
GRID = {
    "model_name": "ttt-tiny",
    "batch": "1,2,3",
    "genlen": "3",
    "device": "cpu",
    "max_seconds": "4",
    "precision_pct": "0.0001",
}
NAMES = [f"ttt-tiny mlp_1_dual b{batch} g3 cpu" for batch in (1, 2, 3)]


def as_sweep(command: list[str]) -> list[str]:
    return [*command[:3], "-e", "sweep", *command[3:]]


def ttt_mlflow_sweep(parameters: dict[str, str]) -> list[str]:
    return [sys.executable, "-m", "ttt_mlflow", "sweep", *(f"--{name}={value}" for name, value in parameters.items())]


def ended(logdir: Path) -> int:
    """How many runs of the sweep have ended."""
    logs = [log for log in logdir.glob("*/artifacts/log.txt") if '"ok"' in (log.parents[1] / "status.json").read_text()]
    return len(logs)


def second_is_measured(logdir: Path) -> bool:
    measuring = [log for log in logdir.glob("*/artifacts/log.txt") if "timed pass 2" in log.read_text()]
    return len(measuring) > ended(logdir) >= 1


def runs_of(uri: str, experiment: str) -> list[Run]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], order_by=["start_time ASC"]))


@pytest.mark.long
def test_killed_in_the_middle_and_resumed_by_the_same_command(server_uri: str, tmp_path: Path) -> None:
    logdir = tmp_path / "runs"
    command = as_sweep(mlflow_run({**GRID, "logdir": str(logdir)}))
    command += ["--experiment-name", "killed"]
    with started(command, environment(server_uri)) as process:
        process.wait_for(lambda: second_is_measured(logdir))
        everything = psutil.Process(process.process.pid).children(recursive=True)
        os.killpg(process.process.pid, signal.SIGKILL)  # mlflow and the sweep; what measures has a group of its own
        process.process.wait()
        wait_until(lambda: not any(one.is_running() for one in everything))
    parent, first = runs_of(server_uri, "killed")
    assert (parent.info.status, parent.data.tags["ttt.kind"]) == ("RUNNING", "sweep")
    assert "2 to do" in parent.data.tags["mlflow.note.content"] or "being measured" in str(parent.data.tags)

    with started(command, environment(server_uri)) as process:
        process.wait_for(lambda: "ttt.resumes" in runs_of(server_uri, "killed")[-1].data.tags)
        resumption = runs_of(server_uri, "killed")[-1]
        assert resumption.info.run_name == f"resumed: {parent.info.run_name}", "it says so even if it is killed"
        assert "measures nothing itself: it resumes" in resumption.data.tags["mlflow.note.content"]
        assert (resumption.info.status, "ttt.status" in resumption.data.tags) == ("RUNNING", False)
        assert process.wait() == 0, process.output
    assert "Resuming the sweep of" in process.output
    runs = runs_of(server_uri, "killed")
    again = {one.info.run_id: one for one in runs}
    parent = again[parent.info.run_id]
    assert parent.info.status == "FINISHED"
    children = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert first.info.run_id in {one.info.run_id for one in children}, "it was not measured again"
    assert sorted(str(one.info.run_name) for one in children if one.data.tags["ttt.status"] == "ok") == NAMES
    (killed,) = (one for one in children if one.data.tags["ttt.status"] == "killed")
    assert killed.info.status == "KILLED"
    assert killed.data.metrics["decode_tokens_per_s"] > 0, "what the killed one had is kept"

    (resumption,) = (one for one in runs if one not in children and one.info.run_id != parent.info.run_id)
    tags = resumption.data.tags
    assert resumption.info.status == "FINISHED"
    assert (tags["ttt.kind"], tags["ttt.resumes"]) == ("sweep", parent.info.run_id)
    assert "ttt.sweep_id" not in tags
    assert f"{server_uri}/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}" in str(tags)
    assert "measured nothing itself: it resumed" in tags["mlflow.note.content"]
    assert "3 runs: 3 measured" in tags["mlflow.note.content"]
    assert "| ttt-tiny mlp_1_dual |" in tags["mlflow.note.content"]

    third = run(command, environment(server_uri))
    assert third.returncode == 0, third.stdout + third.stderr
    assert "All runs of this sweep are there" in third.stdout
    last = runs_of(server_uri, "killed")[-1]
    assert (last.info.status, last.data.tags["ttt.resumes"]) == ("FINISHED", parent.info.run_id)
    assert len(runs_of(server_uri, "killed")) == len(runs) + 1


@pytest.mark.long
def test_ctrl_c_is_recorded_and_the_same_command_goes_on(tmp_path: Path) -> None:
    logdir, store = tmp_path / "runs", new_store(tmp_path)
    grid = {**GRID, "batch": "1,2", "max_seconds": "3600", "logdir": str(logdir)}
    with started(ttt_mlflow_sweep(grid), environment(store)) as process:
        process.wait_for(lambda: any("timed pass 2" in log.read_text() for log in logdir.glob("*/artifacts/log.txt")))
        measuring = psutil.Process(process.process.pid).children(recursive=True)
        process.press_ctrl_c()
        assert process.wait() == 130, process.output
        assert not any(one.is_running() for one in measuring)
    assert "Traceback" not in process.output
    assert "Stopped by SIGINT; the same command goes on" in process.output
    parent, child = runs_of(store, "ttt-mlflow")
    assert [one.info.status for one in (parent, child)] == ["KILLED", "KILLED"]
    assert child.data.tags["ttt.message"].startswith("stopped by SIGINT")
    assert child.data.metrics["decode_tokens_per_s"] > 0
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id


@pytest.mark.long
def test_mlflow_run_says_what_is_wrong_with_a_sweep(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    command = as_sweep(mlflow_run({**GRID, "batch": "1,x", "logdir": str(tmp_path / "runs")}))
    done = run(command, environment(store))
    assert done.returncode != 0
    assert "Error: batch=x: not allowed" in done.stderr
    (refused,) = MlflowClient(store).search_runs(["0"])
    assert refused.info.status == "FAILED"
    assert refused.data.tags["ttt.kind"] == "sweep"
    assert "batch=x: not allowed" in refused.data.tags["ttt.message"]
    assert ROOT.is_dir()

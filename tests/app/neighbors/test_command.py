"""``ttt-mlflow doctor --neighbors`` as a whole, on GPUs that only this process knows of: it measures on the CPU."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from tests.inline import InlinePublisher
from tests.project import new_store
from tests.telemetry.fake_nvml import FakeNvml, process
from ttt_mlflow.app import publishing
from ttt_mlflow.app.neighbors import command, turns
from ttt_mlflow.app.neighbors.cases import Case
from ttt_mlflow.app.sweep.executors import Ended
from ttt_mlflow.app.sweep.executors import process as processes
from ttt_mlflow.app.sweep.executors.process import ProcessExecutor
from ttt_mlflow.cli import cli
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import Killed
from ttt_mlflow.measurement.neighbors_cache import known_neighbors
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.telemetry.gpus import Gpu

GPUS = [Gpu(number, "Fake H200", f"GPU-{number}", 141 * 10**9) for number in (0, 1)]
SMALL = {"model_name": "ttt-tiny", "genlen": 2, "device": "cpu", "max_seconds": 0.5, "precision_pct": 1e-6}
Doctor = Callable[..., Result]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    """Two idle GPUs, and two cases that a CPU measures in a moment."""
    nvml = FakeNvml()
    nvml.uuids = [gpu.uuid for gpu in GPUS]
    nvml.processes, nvml.utilization = [], 0
    nvml.nodes = [sorted(os.sched_getaffinity(0))]  # type: ignore[list-item]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(processes, "visible_gpus", lambda: GPUS)
    monkeypatch.setattr(command, "chosen_gpus", lambda asked: GPUS)
    small = [Case("launch-bound", RunConfig(batch=1, **SMALL)), Case("power-bound", RunConfig(batch=2, **SMALL))]
    monkeypatch.setattr(command, "cases", lambda: small)
    monkeypatch.setattr(publishing, "Publisher", InlinePublisher)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return nvml


@pytest.fixture
def doctor() -> Doctor:
    def run(*words: str) -> Result:
        out, err = sys.stdout, sys.stderr
        try:
            return CliRunner().invoke(cli, ["doctor", "--neighbors", *words])
        finally:
            sys.stdout, sys.stderr = out, err

    return run


@pytest.mark.parametrize("count", [0, 1])
def test_it_takes_two_gpus(count: int, host: FakeNvml, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "chosen_gpus", lambda asked: GPUS[:count])
    refused = doctor()
    assert refused.exit_code == 2
    found = "this host has one that CUDA can use: 0 (Fake H200)" if count else "this host has none that CUDA can use"
    assert refused.stderr.splitlines() == [f"Error: neighbors: it takes two GPUs or more; {found}"]
    assert not Path("ttt_runs").exists()


def test_bad_input_is_one_line_before_anything_is_measured(host: FakeNvml, doctor: Doctor) -> None:
    both = doctor("--measure")
    assert (both.exit_code, len(both.stderr.splitlines())) == (2, 1)
    assert "neighbors: measure is given too" in both.stderr
    host.users, host.utilizations = {"GPU-1": [process(2**30)]}, {"GPU-1": 61}
    busy = doctor()
    assert busy.exit_code == 2
    (line,) = busy.stderr.splitlines()
    assert line.startswith("Error: neighbors: GPU 1 (Fake H200) is in use by unknown process")
    assert not Path("ttt_runs").exists()


@pytest.mark.long
def test_it_measures_records_publishes_and_is_known_to_later_sweeps(
    host: FakeNvml, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.power_limits = {"GPU-1": 500}
    uri = new_store(tmp_path)
    done = doctor("--json", f"--tracking-uri={uri}", "--experiment-name=neighbors")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["exit_code"] == 0
    assert [pair["title"].partition(":")[0] for pair in found["comparison"]["pairs"]] == ["launch-bound", "power-bound"]
    assert [gpu["uuid"] for gpu in found["gpus"]] == ["0", "1"]
    assert found["gpus"][0]["host"]["threads"] >= 1
    assert "GPU 1 (Fake H200) has power limit 500 W, its siblings have 700 W" in found["notes"]
    assert "12 of 12, launch-bound, round 2 of 2: ttt-tiny b1 g2 cpu alone on GPU 0 (Fake H200): " in done.stderr

    journals = find_journals("ttt_runs").journals
    assert len(journals) == 1 + 2 * 2 * (2 + 2)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("neighbors")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if run.data.tags["ttt.kind"] == "compare")
    children = [run for run in runs if run is not parent]
    assert len(children) == 16
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(run.data.tags["ttt.side"] for run in children) == ["alone"] * 8 + ["together"] * 8
    assert not any("ttt.sweep_id" in run.data.tags for run in children)
    assert parent.info.status == "FINISHED"
    assert "power limit 500 W" in parent.data.tags["mlflow.note.content"]
    known = known_neighbors(["0", "1"])
    assert known is not None
    assert [change.case for change in known.changes] == ["launch-bound", "power-bound"]


@pytest.mark.long
def test_ctrl_c_leaves_a_record_of_what_was_measured(
    host: FakeNvml, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "ROUNDS", 1)
    wait, ended = ProcessExecutor.wait, []

    def interrupted(self: ProcessExecutor, seconds: float) -> list[Ended]:
        found = wait(self, seconds)
        ended.extend(found)
        if len(ended) > 3:  # alone on both, and together on both
            raise Killed(2)
        return found

    monkeypatch.setattr(ProcessExecutor, "wait", interrupted)
    stopped = doctor(f"--tracking-uri={new_store(tmp_path)}")
    assert stopped.exit_code == 130, stopped.output
    assert "Stopped by SIGINT after" in stopped.stderr
    assert known_neighbors(["0", "1"]) is None, "it was not complete"
    parents = [one for one in find_journals("ttt_runs").journals if one.entry_point == "compare"]
    assert [one.status["status"] for one in parents] == ["killed"]
    assert all(one.status["status"] != "running" for one in find_journals("ttt_runs").journals)


@pytest.mark.long
def test_ctrl_c_before_the_first_run_leaves_nothing(
    host: FakeNvml, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: ProcessExecutor, seconds: float) -> list[Ended]:
        raise Killed(15)

    monkeypatch.setattr(ProcessExecutor, "wait", interrupted)
    stopped = doctor()
    assert stopped.exit_code == 143
    assert find_journals("ttt_runs").journals == []

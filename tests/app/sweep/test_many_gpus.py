"""Sweeps on a host with several GPUs, as processes that measure on the CPU: which GPU takes what, and what it says."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app.sweep.conftest import Stored, Sweep
from tests.telemetry.fake_nvml import FakeNvml, process
from ttt_mlflow.app.sweep.executors import process as processes
from ttt_mlflow.app.sweep.executors.process import ProcessExecutor
from ttt_mlflow.app.sweep.task import Task
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.telemetry.gpus import Gpu

Host = Callable[[int], FakeNvml]


def on(count: int) -> list[str]:
    """The options for so many GPUs by number: otherwise, what measures on the CPU uses none."""
    return ["--executor=process", f"--gpus={','.join(map(str, range(count)))}"]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    """A host with so many idle GPUs, of which this process alone knows."""

    def made(count: int) -> FakeNvml:
        gpus = [Gpu(number, "Fake H200", f"GPU-{number}", 141 * 10**9) for number in range(count)]
        nvml = FakeNvml()
        nvml.uuids = [gpu.uuid for gpu in gpus]
        nvml.processes, nvml.utilization = [], 0
        nvml.nodes = [sorted(os.sched_getaffinity(0))]  # type: ignore[list-item]
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.setattr(processes, "visible_gpus", lambda: gpus)
        choose = processes.chosen_gpus
        monkeypatch.setattr(processes, "chosen_gpus", lambda asked: choose(asked, lambda: gpus))
        return nvml

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_a_gpu_in_use_is_refused_before_anything_is_measured(host: Host, sweep: Sweep, tmp_path: Path) -> None:
    nvml = host(2)
    nvml.users, nvml.utilizations = {"GPU-1": [process(2**30)]}, {"GPU-1": 61}
    refused = sweep("--executor=process", "--gpus=0,1", "--batch=1")
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("Error: gpus=0,1: GPU 1 (Fake H200) is in use by unknown process (pid 1073741824)")
    assert os.listdir(tmp_path) == []
    more = sweep("--executor=process", "--gpus=0,2", "--batch=1")
    assert (more.exit_code, len(more.stderr.splitlines())) == (2, 1)
    assert "gpus=0,2: no such GPU as 2; this host has 0 (Fake H200), 1 (Fake H200)" in more.stderr


@pytest.mark.long
def test_eight_at_once_write_to_one_store(
    host: Host, sweep: Sweep, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(8)
    most: list[int] = []
    running = ProcessExecutor.running

    def counted(self: ProcessExecutor) -> list[tuple[Task, str]]:
        found = running(self)
        most.append(len(found))
        return found

    monkeypatch.setattr(ProcessExecutor, "running", counted)
    done = sweep(*on(8), "--batch=1,2,3,4,5,6,7,8,9,10")
    assert done.exit_code == 0, done.output
    assert max(most) == 8
    stored = Stored(store)
    assert len(stored.names("ok")) == 10
    assert stored.parent.info.status == "FINISHED"
    assert "on 8 x Fake H200" in done.stderr
    assert "is not known on this host; `ttt-mlflow doctor --neighbors` measures it" in done.stderr
    places = [line.rpartition(" on ")[2].partition(" (")[0] for line in done.stderr.splitlines() if " of 10, " in line]
    assert set(places) == set("01234567")
    journals = find_journals("ttt_runs").journals
    assert len(journals) == 11
    assert all(journal.faults() == [] for journal in journals)


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 1])
def test_a_gpu_that_disappears(
    count: int, host: Host, sweep: Sweep, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cell goes to another GPU, once; without another one the same command goes on later."""
    nvml = host(count)
    start, lost = ProcessExecutor.start, f"GPU-{count - 1}"

    def and_lose(self: ProcessExecutor, task: Task, on: str | None = None) -> None:
        start(self, task, on)
        for place, one in self._running.items():
            if self._gpus[place].uuid == lost and lost not in nvml.lost:
                nvml.lost = {lost}
                os.kill(one.process.pid, signal.SIGKILL)

    monkeypatch.setattr(ProcessExecutor, "start", and_lose)
    done = sweep(*on(count), "--batch=1,2,3")
    warning = f"Warning: GPU {count - 1} (Fake H200) does not answer any more (GPU is lost)"
    stored = Stored(store)
    if count == 2:
        assert done.exit_code == 0, done.output
        assert f"{warning}; ttt-tiny b2 g3 cpu goes to another GPU" in done.stderr
        assert len(stored.names("ok")) == 3
        return
    assert done.exit_code == 1, done.output
    assert warning in done.stderr
    assert "goes to another GPU" not in done.stderr
    assert "all GPUs were lost; 1 runs failed and 2 are left; the same command goes on" in done.stderr
    assert stored.parent.info.status == "FAILED"
    nvml.lost = {"none any more"}
    monkeypatch.setattr(ProcessExecutor, "start", start)
    assert sweep(*on(count), "--batch=1,2,3").exit_code == 0
    assert len(Stored(store).names("ok")) == 3


@pytest.mark.long
def test_launch_bound_runs_are_alone(host: Host, sweep: Sweep, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host(3)
    beside: list[tuple[int, list[int]]] = []  # of each cell that was started: its batch, and those that were running
    start = ProcessExecutor.start

    def noted(self: ProcessExecutor, task: Task, on: str | None = None) -> None:
        beside.append((task.cell.config.batch, [one.cell.config.batch for one, _ in self.running()]))
        start(self, task, on)

    monkeypatch.setattr(ProcessExecutor, "start", noted)
    assert sweep(*on(3), "--batch=1,2,32,33", "--exclusive").exit_code == 0
    assert beside == [(33, []), (32, [33]), (2, []), (1, [])]


@pytest.mark.long
def test_two_that_compile_the_same_at_once_share_a_cache(
    host: Host, sweep: Sweep, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(2)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    done = sweep(*on(2), "--batch=2", "--seed=0,1", "--use-compile=true")
    assert done.exit_code == 0, done.output
    first, second = (run.data.metrics["compile_s"] for run in Stored(store).children)
    assert min(first, second) > 0
    assert list((tmp_path / "inductor").iterdir())

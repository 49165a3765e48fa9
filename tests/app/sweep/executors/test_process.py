"""Cells in processes of their own: what each process gets, and what a process that dies leaves."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.project import wait_until
from ttt_mlflow.app import fork_server
from ttt_mlflow.app.sweep.executors import Ended
from ttt_mlflow.app.sweep.executors import process as processes
from ttt_mlflow.app.sweep.executors.process import ProcessExecutor, chosen_gpus
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.app.sweep.task import Task
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.telemetry.gpus import Gpu

GPUS = [Gpu(number, "Fake H200", f"GPU-{number}", 141 * 10**9) for number in (0, 1)]
CONFIG = {"model_name": "ttt-tiny", "batch": 1, "genlen": 2, "device": "cpu", "repeats": 1000000, "max_seconds": 3600}
TARGET = {"tracking_uri": "http://nowhere", "run_id": None, "experiment_name": "e", "experiment_id": None}


def task(logdir: Path, **values: object) -> Task:
    cell = Cell(RunConfig.parse({**CONFIG, **values}))
    return Task(cell, cell.key, logdir, "sweep", "parent", TARGET)


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessExecutor]:
    """On two GPUs that only the environment of the processes knows of; they measure on the CPU."""
    monkeypatch.setattr(processes, "visible_gpus", lambda: GPUS)
    monkeypatch.setattr(fork_server, "MODULES", ("ttt_mlflow.app.sweep.cell_process",))  # the rest is imported later
    monkeypatch.setattr(fork_server, "IF_INSTALLED", ())
    with ProcessExecutor(GPUS) as executor:
        yield executor


def started(logdir: Path) -> bool:
    return any("timed pass 2" in log.read_text() for log in logdir.glob("*/artifacts/log.txt"))


def test_each_process_has_a_gpu_of_its_own_and_nothing_of_the_users_mlflow(
    executor: ProcessExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    executor.start(task(tmp_path))
    executor.start(task(tmp_path, batch=2))
    assert [place for _, place in executor.running()] == ["0 (Fake H200)", "1 (Fake H200)"]
    environments = [executor._environment(place) for place in ("0 (Fake H200)", "1 (Fake H200)")]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == ["GPU-0", "GPU-1"]
    children = psutil.Process().children(recursive=True)
    assert len(children) == 3, "two cells, and the process that they are forks of"
    environments += [child.environ() for child in children]
    assert not any(name.startswith("MLFLOW_") for env in environments for name in env)
    assert not any("secret" in word for child in children for word in child.cmdline())

    wait_until(lambda: started(tmp_path))
    first, second = executor.running()
    running = executor._running
    os.kill(running[first[1]].process.pid, signal.SIGKILL)
    (killed,) = all_ended_of(executor, 1)
    assert killed.task == first[0]
    assert executor.running() == [second], "one process that dies costs one cell"
    if killed.record:  # else the other one was faster
        assert killed.record.status["status"] == "killed"
        assert killed.record.tags["ttt.cell"] == killed.task.cell.key
        assert killed.record.target == TARGET

    (stopped,) = executor.stop(signal.SIGINT)
    if stopped.record:
        assert stopped.record.status["message"] is not None
        assert stopped.record.status["message"].startswith("stopped by SIGINT")
    assert killed.record or stopped.record
    assert len(psutil.Process().children(recursive=True)) == 1, "the server of forks"
    executor.__exit__(None, None, None)
    assert not psutil.Process().children()


def all_ended_of(executor: ProcessExecutor, count: int) -> list[Ended]:
    found: list[Ended] = []

    def enough() -> bool:
        found.extend(executor.wait(0.1))
        return len(found) >= count

    wait_until(enough)
    return found


def test_a_process_that_cannot_measure_says_why(executor: ProcessExecutor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    executor.start(task(tmp_path / "file"))
    (refused,) = all_ended_of(executor, 1)
    assert refused.record is None
    assert str(refused.reason).startswith(f"logdir={tmp_path}/file: not writable (")


def test_a_process_ends_with_the_sweep(executor: ProcessExecutor, tmp_path: Path) -> None:
    """Its input closes, as when the sweep was killed: it records what it has measured."""
    executor.start(task(tmp_path))
    wait_until(lambda: started(tmp_path))
    ((_, place),) = executor.running()
    stdin = executor._running[place].process.stdin
    assert stdin
    stdin.close()
    (ended,) = all_ended_of(executor, 1)
    assert ended.record
    assert ended.record.status["message"] == "stopped by SIGTERM"
    assert ended.record.metrics["decode_tokens_per_s"] > 0


def test_gpus() -> None:
    assert chosen_gpus(None, lambda: GPUS) == GPUS
    assert chosen_gpus(["1"], lambda: GPUS) == GPUS[1:]
    assert chosen_gpus(None, list) == []
    both = "this host has 0 (Fake H200), 1 (Fake H200)"
    for asked, message in (
        (["0", "2"], f"gpus=0,2: no such GPU as 2; {both}"),
        (["x"], f"gpus=x: no such GPU as x; {both}"),
        (["1", "1"], "gpus=1,1: a GPU is given twice; it measures one run at a time"),
    ):
        with pytest.raises(BadInput) as refused:
            chosen_gpus(asked, lambda: GPUS)
        assert str(refused.value) == message


def test_without_forks_each_process_imports_everything_by_itself(
    executor: ProcessExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fork_server, "MODULES", ("no_such_module",))
    (tmp_path / "file").write_text("")
    executor.start(task(tmp_path / "file"))
    (refused,) = all_ended_of(executor, 1)
    assert str(refused.reason).startswith(f"logdir={tmp_path}/file: not writable (")
    said = "Note: each cell imports everything by itself, which takes seconds: no_such_module cannot be imported"
    assert said in capsys.readouterr().err

"""Cells in processes of their own: what each process gets, and what a process that dies leaves."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.project import wait_until
from tests.telemetry.fake_nvml import FakeNvml
from ttt_mlflow.app import fork_server
from ttt_mlflow.app.fork_server import ForkServer
from ttt_mlflow.app.sweep.executors import Ended
from ttt_mlflow.app.sweep.executors import process as processes
from ttt_mlflow.app.sweep.executors.process import ProcessExecutor, chosen_gpus
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.app.sweep.task import Task
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.telemetry import host_shares
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
    before = set(psutil.Process().children(recursive=True))  # servers of other tests
    executor.start(task(tmp_path))
    executor.start(task(tmp_path, batch=2))
    assert [place for _, place in executor.running()] == ["0 (Fake H200)", "1 (Fake H200)"]
    environments = [executor._environment(place) for place in ("0 (Fake H200)", "1 (Fake H200)")]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == ["GPU-0", "GPU-1"]
    children = set(psutil.Process().children(recursive=True)) - before
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
    assert len(set(psutil.Process().children(recursive=True)) - before) == 1, "the server of forks"
    executor.__exit__(None, None, None)
    assert set(psutil.Process().children()) <= before


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A host with eight GPUs, as NVML has it: four on each of two NUMA nodes, whose cores are those of this machine."""
    nvml = FakeNvml()
    nvml.uuids = [f"GPU-{number}" for number in range(8)]
    cores = sorted(os.sched_getaffinity(0))
    nvml.nodes = [cores[: len(cores) // 2] or cores, cores[len(cores) // 2 :]]  # type: ignore[list-item]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(host_shares, "numa_nodes", lambda system: 2)
    monkeypatch.delenv(processes.THREADS, raising=False)
    return nvml


def test_eight_gpus_take_one_cell_each(
    executor: ProcessExecutor, eight: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [Gpu(number, "Fake H200", f"GPU-{number}", 141 * 10**9) for number in range(8)]
    monkeypatch.setattr(processes, "visible_gpus", lambda: gpus)
    with ProcessExecutor(gpus) as executor:
        assert executor.width == 8
        for number in range(8):
            executor.start(task(tmp_path, batch=number + 1))
        assert [place for _, place in executor.running()] == [str(gpu) for gpu in gpus]
        uuids = [executor._environment(place)["CUDA_VISIBLE_DEVICES"] for place in map(str, gpus)]
        assert uuids == [gpu.uuid for gpu in gpus]
        with pytest.raises(StopIteration):
            executor.start(task(tmp_path))
        executor.stop(signal.SIGTERM)
        assert executor.width == 8, "they were stopped, and no GPU was lost"


def test_each_process_is_pinned_to_its_share_and_the_record_says_so(
    executor: ProcessExecutor, eight: FakeNvml, tmp_path: Path
) -> None:
    shares = executor.shares
    assert list(shares) == ["0 (Fake H200)", "1 (Fake H200)"]
    (core,) = eight.nodes[0][:1]
    share = shares["1 (Fake H200)"]
    assert (share.node, share.threads) == (0, 1)
    executor.start(task(tmp_path), on="1 (Fake H200)")
    assert executor._environment("1 (Fake H200)")["OMP_NUM_THREADS"] == "1"
    assert executor._environment("1 (Fake H200)")["TORCHINDUCTOR_COMPILE_THREADS"] == "1"
    wait_until(lambda: started(tmp_path))
    process = psutil.Process(executor._running["1 (Fake H200)"].process.pid)
    assert process.cpu_affinity() == list(share.cores)
    threads = [psutil.Process(thread.id).cpu_affinity() for thread in process.threads()]
    assert all(affinity == list(share.cores) for affinity in threads), "those of its libraries too"
    (stopped,) = executor.stop(signal.SIGINT)
    assert stopped.record
    facts = json.loads((stopped.record.artifacts / "environment/host.json").read_text())
    assert (facts["pinned_cores"], facts["numa_node"], facts["host_threads"]) == (str(core), 0, 1)
    assert facts["numa_memory"] == "preferred" or facts["numa_memory"].startswith("first touch (")
    assert facts["cpu_cores"] == 1


def test_a_number_of_threads_that_was_chosen_is_kept(
    executor: ProcessExecutor, eight: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "3")
    environment = executor._environment("0 (Fake H200)")
    assert (environment["OMP_NUM_THREADS"], environment["TORCHINDUCTOR_COMPILE_THREADS"]) == ("7", "3")
    assert executor.shares["0 (Fake H200)"].threads == 7


def test_the_only_gpu_of_a_host_leaves_the_threads_as_they_are(
    executor: ProcessExecutor, eight: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight.uuids = ["GPU-0"]
    monkeypatch.setattr(host_shares, "numa_nodes", lambda system: 1)
    assert executor.shares["0 (Fake H200)"].in_words == "all threads, not pinned"
    assert not {"OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"} & executor._environment("0 (Fake H200)").keys()


def test_a_gpu_that_is_lost_takes_no_further_cell(executor: ProcessExecutor, eight: FakeNvml, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    executor.start(task(tmp_path / "file"))
    eight.lost = {"GPU-0"}
    (ended,) = all_ended_of(executor, 1)
    assert ended.lost == "GPU 0 (Fake H200) does not answer any more (GPU is lost)"
    assert executor.width == 1
    executor.start(task(tmp_path / "file"))
    assert [place for _, place in executor.running()] == ["1 (Fake H200)"]
    (refused,) = all_ended_of(executor, 1)
    assert refused.lost is None, "its process failed for another reason"
    assert refused.record is None
    assert str(refused.reason).startswith(f"logdir={tmp_path}/file: not writable (")
    assert executor.width == 1


@pytest.mark.long
def test_a_gpu_that_nvml_never_knew_is_not_lost(executor: ProcessExecutor, eight: FakeNvml, tmp_path: Path) -> None:
    """As an instance of MIG, which CUDA's driver does not call by NVML's name."""
    eight.uuids = ["GPU-7", "GPU-1"]
    (tmp_path / "file").write_text("")
    executor.start(task(tmp_path / "file"))
    (ended,) = all_ended_of(executor, 1)
    assert (ended.lost, executor.width) == (None, 2)
    assert "OMP_NUM_THREADS" not in executor._environment("0 (Fake H200)")


def all_ended_of(executor: ProcessExecutor, count: int) -> list[Ended]:
    found: list[Ended] = []

    def enough() -> bool:
        found.extend(executor.wait(0.1))
        return len(found) >= count

    wait_until(enough)
    return found


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
    executor.prepare()
    executor.start(task(tmp_path / "file"))
    (refused,) = all_ended_of(executor, 1)
    assert str(refused.reason).startswith(f"logdir={tmp_path}/file: not writable (")
    said = "Note: each cell imports everything by itself, which takes seconds: no_such_module cannot be imported"
    assert said in capsys.readouterr().err


@pytest.mark.long
def test_what_no_fork_can_share_is_told_once(
    executor: ProcessExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = ForkServer.wait_until_ready

    def wait_until_ready(server: ForkServer) -> str | None:
        fault, server.left_out = ready(server), ["a.b: importing a.b.c starts the CUDA driver"]
        return fault

    monkeypatch.setattr(ForkServer, "wait_until_ready", wait_until_ready)
    (tmp_path / "file").write_text("")
    for _ in range(2):
        executor.start(task(tmp_path / "file"))
    all_ended_of(executor, 2)
    said = (
        "Note: each cell imports some of it by itself, which takes seconds: a.b: importing a.b.c starts the CUDA driver"
    )
    assert capsys.readouterr().err.splitlines().count(said) == 1

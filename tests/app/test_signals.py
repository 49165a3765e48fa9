"""Ctrl-C and SIGTERM on real processes: the run is marked killed and keeps what was measured."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.project import (
    ENDLESS,
    ROOT,
    Started,
    environment,
    measuring,
    mlflow_run,
    new_store,
    run,
    started,
    ttt_mlflow_run,
    wait_until,
)
from ttt_mlflow.app.signals import SignalHandler, stopped_by_signals
from ttt_mlflow.errors import Killed
from ttt_mlflow.record.room import FOLDER


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_store(tmp_path_factory.mktemp("store"))


def only_run_of(logdir: Path, store: str) -> Run:
    """The MLflow run of the only journal under ``logdir``; the journal itself must say killed."""
    (journal,) = logdir.iterdir()
    assert json.loads((journal / "status.json").read_text())["status"] == "killed"
    client = MlflowClient(store)
    experiments = [one.experiment_id for one in client.search_experiments()]  # `mlflow run` uses MLflow's own
    (found,) = client.search_runs(experiments, f"tags.`ttt.journal_id` = '{journal.name}'")
    return found


def assert_killed_with_what_was_measured(found: Run, signal_name: str) -> None:
    assert found.info.status == "KILLED"
    assert found.data.tags["ttt.status"] == "killed"
    assert signal_name in found.data.tags["ttt.message"]
    assert found.data.metrics["decode_tokens_per_s"] > 0
    assert found.info.run_name == "ttt-tiny mlp_1_dual b2 g3 cpu"


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_benchmark(signum: signal.Signals, store: str, tmp_path: Path) -> None:
    with started(ttt_mlflow_run({**ENDLESS, "logdir": str(tmp_path)}), environment(store)) as process:
        process.wait_for(lambda: measuring(tmp_path))
        process.process.send_signal(signum)
        assert process.wait() == 128 + signum
        assert "Traceback" not in process.output
    assert_killed_with_what_was_measured(only_run_of(tmp_path, store), signum.name)


@pytest.mark.long
def test_signal_during_the_profile(store: str, tmp_path: Path) -> None:
    """The measurement before it is complete, and the record says so."""
    asked = {**ENDLESS, "repeats": "2", "profile": "torch", "logdir": str(tmp_path)}
    with started(ttt_mlflow_run(asked), environment(store)) as process:
        process.wait_for(lambda: profiling(tmp_path))
        process.process.send_signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
        assert "Traceback" not in process.output
    found = only_run_of(tmp_path, store)
    assert found.info.status == "KILLED"
    message = "stopped by SIGINT during profile=torch, after a complete measurement"
    assert found.data.tags["ttt.message"] == message
    assert found.data.metrics["decode_tokens_per_s"] > 0
    assert found.data.tags["ttt.stop_reason"] == "count"
    assert not any(tmp_path.glob(f"*/{FOLDER}"))


def profiling(logdir: Path) -> bool:
    return any("profile=torch begins" in log.read_text() for log in logdir.glob("*/artifacts/log.txt"))


def test_signal_before_anything_is_measured(store: str, tmp_path: Path) -> None:
    """While torch is still being imported: nothing is left behind but the exit code."""
    with started(ttt_mlflow_run({**ENDLESS, "logdir": str(tmp_path)}), environment(store)) as process:
        process.wait_for(lambda: handles_sigterm(process.process.pid))
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
        assert "Traceback" not in process.output


def handles_sigterm(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM (proc(5), SigCgt)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def press_ctrl_c(process: Started) -> None:
    """The terminal sends SIGINT to mlflow and the benchmark; mlflow sends the benchmark SIGTERM after it."""
    process.press_ctrl_c()


def terminate_mlflow_alone(process: Started) -> None:
    """mlflow dies of it at once and passes nothing on."""
    os.kill(process.process.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("end", "signal_name"),
    [(press_ctrl_c, "SIGINT"), pytest.param(terminate_mlflow_alone, "SIGTERM", marks=pytest.mark.long)],
)
def test_signal_to_mlflow_run(end, signal_name: str, store: str, tmp_path: Path) -> None:
    with started(mlflow_run({**ENDLESS, "logdir": str(tmp_path)}), environment(store)) as process:
        process.wait_for(lambda: measuring(tmp_path))
        end(process)
        assert process.wait() != 0
    # mlflow's last act is to mark its run FAILED, which is put right when mlflow is gone
    wait_until(lambda: only_run_of(tmp_path, store).info.status == "KILLED")
    found = only_run_of(tmp_path, store)
    assert_killed_with_what_was_measured(found, signal_name)
    assert found.data.tags["mlflow.project.entryPoint"] == "main"  # mlflow's own run, not another


@pytest.mark.long
def test_killed_at_once_is_published_by_sync(store: str, tmp_path: Path) -> None:
    with started(ttt_mlflow_run({**ENDLESS, "logdir": str(tmp_path)}), environment(store)) as process:
        process.wait_for(lambda: measuring(tmp_path))
        process.process.kill()
        process.wait()
    result = run(["python", "-m", "ttt_mlflow", "sync", str(tmp_path)], environment(store), ROOT)
    assert result.returncode == 0, result.stderr
    (journal,) = tmp_path.iterdir()
    assert result.stdout == f"{journal.name}: published\n"
    found = only_run_of(tmp_path, store)
    assert found.info.status == "KILLED"
    assert found.data.metrics["decode_tokens_per_s"] > 0, "the passes that had ended"
    assert found.data.tags["ttt.stop_reason"] == "interrupted"


# Which signals a command listens to


def test_a_measurement_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with stopped_by_signals():
            with SignalHandler():
                signal.raise_signal(signal.SIGHUP)
                show = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
                assert run(["python", "-c", show], environment(), ROOT).stdout == "True\n", "what it starts, too"
            with pytest.raises(Killed):
                signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nohup_means_what_it_means() -> None:
    """What is ignored when the command starts stays ignored: the terminal may go away."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for listening in (SignalHandler(), stopped_by_signals()):
            with listening:
                signal.raise_signal(signal.SIGHUP)
                assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_only_reads_closes_what_it_has_opened(signum: signal.Signals, tmp_path: Path) -> None:
    """And a second signal is that of the system again."""
    before = {one: signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    then: list[object] = []

    def command() -> None:
        with stopped_by_signals(), TemporaryDirectory(dir=tmp_path):
            try:
                signal.raise_signal(signum)
            finally:
                then.extend(map(signal.getsignal, before))

    try:
        with pytest.raises(Killed) as killed:
            command()
        assert then == [signal.SIG_DFL] * 3
        assert killed.value.exit_code == 128 + signum
        assert list(tmp_path.iterdir()) == []
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_outside_of_the_main_thread_signals_are_left_alone() -> None:
    found = []

    def listen() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with SignalHandler(), stopped_by_signals():
            found.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [True]


FOLLOWING = """
import os, time
from ttt_mlflow.app.signals import ParentRun
from ttt_mlflow.tracking.takeover import Candidate
{without}
ParentRun(Candidate.of_words("run", []), os.getppid()).follow()
print("following", flush=True)
time.sleep(600)
"""
STARTING = """
import subprocess, sys, threading, time
def start():
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    print(child.pid, flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(600)
"""


@pytest.mark.parametrize("without", ["", "del os.pidfd_open"])
def test_the_thread_that_started_the_run_may_end_but_not_its_process(without: str) -> None:
    command = [sys.executable, "-c", STARTING, FOLLOWING.format(without=without)]
    with started(command, {**environment(), "PYTHONPATH": str(ROOT)}) as parent:
        parent.wait_for(lambda: bool(parent.lines))
        child = psutil.Process(int(parent.output))
        time.sleep(0.7)  # more than a look at the parent takes
        assert child.status() != psutil.STATUS_ZOMBIE
        parent.process.kill()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)

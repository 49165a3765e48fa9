"""Ctrl-C and SIGTERM on real processes: the run is marked killed and keeps what was measured."""

import json
import os
import signal
from pathlib import Path

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


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_signal_to_the_benchmark(signum: signal.Signals, store: str, tmp_path: Path) -> None:
    with started(ttt_mlflow_run({**ENDLESS, "logdir": str(tmp_path)}), environment(store)) as process:
        process.wait_for(lambda: measuring(tmp_path))
        process.process.send_signal(signum)
        assert process.wait() == 128 + signum
        assert "Traceback" not in process.output
    assert_killed_with_what_was_measured(only_run_of(tmp_path, store), signum.name)


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

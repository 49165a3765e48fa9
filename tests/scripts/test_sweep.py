"""scripts/sweep_decode.sh: the loop goes on after a failure, and the table shows what was recorded."""

import json
import os
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.project import ROOT, environment, free_port, measuring, new_store, run, started

SWEEP = str(ROOT / "scripts/sweep_decode.sh")
TOO_LARGE = 2**31 - 1  # with prompts of 64 tokens, which alone would be 1.1 TB
QUICKLY = ["--genlen", "3", "-P", "promptlen=64", "-P", "device=cpu", "-P", "warmup=1", "-P", "repeats=2"]


@pytest.fixture
def store(tmp_path: Path) -> str:
    return new_store(tmp_path)


def statuses(logdir: Path) -> list[str]:
    files = sorted(logdir.glob("*/status.json"))
    return [json.loads(file.read_text())["status"] for file in files]


@pytest.mark.long
def test_two_models_and_two_batches_of_which_some_cannot_run(store: str, tmp_path: Path) -> None:
    models = "ttt-tiny:mlp_1_dual,ttt-tiny:mlp_1_dual_triton"  # there is no Triton on a CPU
    batches = f"1,{TOO_LARGE}"  # and no machine has the memory for the second
    logdir = tmp_path / "records"
    command = [SWEEP, "--models", models, "--batches", batches, "--logdir", str(logdir), *QUICKLY]
    result = run(command, environment(store))
    assert result.returncode == 1
    assert statuses(logdir) == ["ok", "oom"]

    ids = sorted(folder.name for folder in logdir.iterdir())
    ok, oom = (line.split() for line in result.stdout.splitlines() if line.split()[:1] in ([ids[0]], [ids[1]]))
    assert (ok[0], ok[-1]) == (ids[0], "ok")
    assert (oom[0], oom[-1]) == (ids[1], "oom")
    assert ok[3:6] == ["ttt-tiny", "mlp_1_dual", "1"]
    assert oom[3:6] == ["ttt-tiny", "mlp_1_dual", str(TOO_LARGE)]

    failed = [line for line in result.stderr.splitlines() if line.startswith("Failed: ")]
    assert failed == [
        f"Failed: ttt-tiny:mlp_1_dual_triton batch {batch}: refused before anything was measured"
        for batch in (1, TOO_LARGE)
    ]
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("ttt-mlflow")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
    assert [one.data.tags["ttt.status"] for one in found] == ["ok", "oom", "error", "error"]


@pytest.mark.long
def test_not_fitting_is_a_result(store: str, tmp_path: Path) -> None:
    logdir = tmp_path / "records"
    command = [SWEEP, "--models", "ttt-tiny", "--batches", str(TOO_LARGE), "--logdir", str(logdir), *QUICKLY]
    result = run(command, environment(store))
    assert statuses(logdir) == ["oom"], result.stderr
    assert result.returncode == 0


@pytest.mark.long
def test_a_server_that_is_down_costs_no_measurement(tmp_path: Path) -> None:
    logdir = tmp_path / "records"
    command = [SWEEP, "--models", "ttt-tiny:mlp_1_dual", "--batches", "1", "--logdir", str(logdir), *QUICKLY]
    result = run(command, environment(f"http://127.0.0.1:{free_port()}"))
    assert statuses(logdir) == ["ok"], result.stderr
    assert result.returncode == 1
    assert "ttt-tiny:mlp_1_dual batch 1: measured but not published" in result.stderr
    assert f"sync {logdir}" in result.stderr


def test_ctrl_c_ends_the_loop_and_keeps_the_record(store: str, tmp_path: Path) -> None:
    logdir = tmp_path / "records"
    command = [SWEEP, "--models", "ttt-tiny", "--batches", "1,2", "--genlen", "3", "--logdir", str(logdir)]
    command += ["-P", "device=cpu", "-P", "repeats=1000000", "-P", "max_seconds=3600"]
    with started(command, environment(store)) as process:
        process.wait_for(lambda: measuring(logdir))
        os.kill(process.process.pid, signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
    assert statuses(logdir) == ["killed"]
    assert "Stopped by SIGINT before all configurations were measured." in process.output


def test_dry_run_prints_the_seeds_three_loops() -> None:
    result = run([SWEEP, "--dry-run", "--logdir", "/nowhere", "-P", "dtype=bfloat16"], environment())
    lines = result.stdout.splitlines()
    assert len(lines) == 3 * 7
    assert lines[0] == (
        "+ mlflow run . --env-manager=local --experiment-name ttt-mlflow -P model_name=state-spaces/mamba-1.4b "
        "-P mode=decode -P batch=128 -P genlen=2048 -P promptlen=1 -P logdir=/nowhere -P dtype=bfloat16"
    )
    assert "inner_net" not in lines[6]
    assert "-P model_name=ttt-1b -P mode=decode -P batch=128 -P genlen=2048 -P inner_net=mlp_1_dual_triton" in lines[7]
    assert "-P batch=8192 -P genlen=2048 -P inner_net=mlp_2_dual_triton" in lines[20]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "3"], "Error: --batch: no such option; see --help"),
        (["--models"], "Error: --models needs a value (see --help)"),
        (["-P", "batch=3"], "Error: -P batch=3: not allowed in a sweep; give the batches with --batches"),
        (["--models", ""], "Error: --models and --batches need at least one entry each"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    result = run([SWEEP, *arguments], environment())
    assert result.returncode != 0
    assert result.stderr.strip() == message

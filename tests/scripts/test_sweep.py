"""scripts/sweep_decode.sh: its options become a command `ttt-mlflow sweep`, which it says and calls."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.project import QUICK, ROOT, environment, new_store, run

SWEEP = str(ROOT / "scripts/sweep_decode.sh")
QUICKLY = [word for name in ("device", "warmup", "repeats") for word in ("-P", f"{name}={QUICK[name]}")]


@pytest.mark.long
def test_its_options_are_those_of_the_new_command(tmp_path: Path) -> None:
    store, logdir = new_store(tmp_path), tmp_path / "records"
    words = ["--models", "ttt-tiny:mlp_1_dual,ttt-tiny:mlp_2_dual", "--batches=1", "--genlen", "3"]
    done = run([SWEEP, *words, "--logdir", str(logdir), *QUICKLY], environment(store), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines()[0] == (
        "+ ttt-mlflow sweep --model-name ttt-tiny:mlp_1_dual\\,ttt-tiny:mlp_2_dual --batch 1 --genlen 3 "
        f"--logdir {logdir} --device=cpu --warmup=1 --repeats=2"
    )
    kept = [json.loads(file.read_text())["status"] for file in logdir.glob("*/status.json")]
    assert kept == ["ok"] * 3
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("ttt-mlflow")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(one.data.tags["ttt.kind"] for one in runs) == ["decode", "decode", "sweep"]


@pytest.mark.long
def test_without_options_it_is_the_seeds_three_loops(tmp_path: Path) -> None:
    """The preset says the same. On a machine without a GPU both are refused, with the same words."""
    done = run([SWEEP, "--dry-run", "-P", "device=cpu", "-P", "checkpoint=weights"], environment(), tmp_path)
    assert done.stderr.splitlines()[0] == (
        "+ ttt-mlflow sweep --model-name "
        "state-spaces/mamba-1.4b\\,ttt-1b:mlp_1_dual_triton\\,ttt-1b:mlp_2_dual_triton "
        "--batch 128\\,256\\,512\\,1024\\,2048\\,4096\\,8192 --genlen 2048 "
        f"--logdir {ROOT}/exp/sweep --dry-run --device=cpu --checkpoint={tmp_path}/weights"
    )
    assert done.returncode == 2
    assert not (ROOT / "exp/sweep").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "3"], "Error: --batch: no such option; see --help"),
        (["--models"], "Error: --models needs a value (see --help)"),
        (["-P", "batch=3"], "Error: -P batch=3: not allowed in a sweep; give the batches with --batches"),
        (["-P", "inner_net=x"], "Error: -P inner_net=x: not allowed in a sweep; give the models with --models"),
        (["--models", ""], "Error: --models and --batches need at least one entry each"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    result = run([SWEEP, *arguments], environment())
    assert result.returncode != 0
    assert result.stderr.strip() == message

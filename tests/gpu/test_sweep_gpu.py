"""A sweep on a GPU: its own process takes nothing of the GPU, and each cell has the GPU that is said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.project import environment, new_store, run
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.telemetry.gpus import visible_gpus

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
GRID = ["--model-name=ttt-profile", "--inner-net=mlp_1_dual_triton,mlp_2_dual_triton", "--batch=8,max", "--genlen=16"]
LOOK = """
from ttt_mlflow.app.sweep.command import checked_board
from ttt_mlflow.app.sweep.start import open_executor
from ttt_mlflow.config import SweepConfig
from ttt_mlflow.telemetry.context import holds_context
from ttt_mlflow.telemetry.gpus import visible_gpus
config = SweepConfig.parse({"model_name": "ttt-profile", "batch": "8,max", "inner_net": "mlp_1_dual_triton"})
with open_executor(config) as executor:
    board = checked_board(config, executor)
    print(len(board.states), [holds_context(gpu.uuid) for gpu in visible_gpus()])
"""


def test_the_driver_tells_what_pytorch_tells() -> None:
    gpus = visible_gpus()
    assert [gpu.name for gpu in gpus] == [torch.cuda.get_device_name(gpu.number) for gpu in gpus]
    properties = [torch.cuda.get_device_properties(gpu.number) for gpu in gpus]
    assert [gpu.total_bytes for gpu in gpus] == [one.total_memory for one in properties]
    assert [gpu.uuid for gpu in gpus] == [f"GPU-{one.uuid}" for one in properties]


def test_checking_the_cells_creates_no_context() -> None:
    """Its memory would be missing from the largest batch, and the verdicts would name another process."""
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"2 {[False] * len(visible_gpus())}"


def test_cells_on_the_gpu_and_nothing_to_do_the_second_time(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ttt_mlflow", "sweep", *GRID, "--max-seconds=5", f"--logdir={tmp_path / 'runs'}"]
    env = environment(new_store(tmp_path))
    done = run(command, env, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    children = [one for one in find_journals(tmp_path / "runs").journals if "ttt.cell" in one.tags]
    assert len(children) == 4
    assert {one.tags["ttt.gpu_uuid"] for one in children} <= {gpu.uuid.removeprefix("GPU-") for gpu in visible_gpus()}
    assert {one.status["status"] for one in children} <= {"ok", "oom"}
    for one in children:
        assert "other_process" not in one.tags.get("ttt.reasons", "")
        assert json.loads((one.path / "config.json").read_text())["used"]["device"] == "cuda"
    again = run(command, env, tmp_path)
    assert "All runs of this sweep are there" in again.stdout

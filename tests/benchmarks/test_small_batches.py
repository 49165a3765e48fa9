"""benchmarks/small_batches.sh with a python that only pretends, and its grid."""

import os
import subprocess
from itertools import product
from pathlib import Path

import pytest

from ttt_mlflow.app.sweep.grid import cells_of
from ttt_mlflow.config import SweepConfig

SCRIPT = Path(__file__).parents[2] / "benchmarks/small_batches.sh"
PYTHON = """#!/bin/sh
echo "$MLFLOW_TRACKING_URI $*" >> "$CALLS"
case "$*" in *" sweep "*) exit "$SWEEP_CODE" ;; *" table "*) echo "a table" ;; *) echo "torch 1" ;; esac
"""


@pytest.mark.parametrize("code", [0, 1])
def test_a_sweep_and_a_table_whether_all_went_well_or_not(code: int, tmp_path: Path) -> None:
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "SWEEP_CODE": str(code)}
    out = tmp_path / "out"
    done = subprocess.run([SCRIPT, out], env=os.environ | own, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    _, sweep, table = (tmp_path / "calls").read_text().splitlines()
    grid = "--grid benchmarks/small_batches.yaml --executor inline"
    assert sweep == f"sqlite:///{out}/mlflow.db -m ttt_mlflow sweep {grid} --logdir {out}/runs"
    assert f" table {out}/runs --columns name,decode_step_ms_mean," in table
    lines = (out / "small_batches.txt").read_text().splitlines()
    assert "torch 1" in lines
    assert lines[-2:] == [f"exit code {code}", "a table"]


def test_no_folder() -> None:
    done = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "usage: benchmarks/small_batches.sh OUTPUT_FOLDER\n"


def test_the_grid_has_both_nets_and_both_ways() -> None:
    cells = [cell.config for cell in cells_of(SweepConfig.parse({"grid": str(SCRIPT.with_suffix(".yaml"))}))]
    measured = [(one.inner_net, one.batch, one.decode_path) for one in cells]
    nets = ("mlp_1_dual_triton", "mlp_2_dual_triton")
    both = product(nets, (1, 16, 64, 128), ("launches", "overlapped"))
    assert measured[-1] == (nets[0], 1024, None), "which has one way"
    assert sorted(measured[:-1]) == sorted([*both, *product(nets, (2, 8, 32), ("overlapped",))])
    assert {(one.model_name, one.promptlen, one.genlen) for one in cells} == {("ttt-1b", 1, 256)}

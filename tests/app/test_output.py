"""A reader that goes away while a run is measured, as in ``ttt-mlflow run | head -1``, costs nothing."""

import json
import os
import subprocess
from pathlib import Path

from tests.project import QUICK, ROOT, environment, new_store, ttt_mlflow_run


def test_a_closed_pipe_does_not_end_a_run(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    command = ttt_mlflow_run({**QUICK, "logdir": str(tmp_path / "runs")})
    process = subprocess.Popen(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(new_store(tmp_path))
    )
    os.close(reading)
    os.close(writing)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    (status,) = (tmp_path / "runs").glob("*/status.json")
    assert json.loads(status.read_text())["status"] == "ok"
    assert status.with_name("published.json").exists()

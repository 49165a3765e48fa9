"""The process of one cell."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ttt_mlflow.app.sweep.executors.process import CELL
from ttt_mlflow.errors import FAULT


def test_it_ends_at_once_when_all_is_told(tmp_path: Path) -> None:
    """What Python does at its end, as waiting for a compiler's workers, would keep the GPU from the next cell."""
    (tmp_path / "sitecustomize.py").write_text("import atexit, time\natexit.register(time.sleep, 600)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", CELL],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin and process.stdout and process.stderr  # noqa: PT018
        process.stdin.write("{}\n")  # no task
        process.stdin.flush()
        assert process.wait(120) == FAULT
        assert json.loads(process.stdout.read()) == {"reason": "KeyError: 'config'"}
        assert "Traceback" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()

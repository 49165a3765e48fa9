"""The Triton kernels' numerics without a GPU. Triton's interpreter is chosen at import: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = [Path(__file__).with_name("interpreted.py"), Path(__file__).parents[1] / "micro/interpreted_layer.py"]


def interpreted(*chosen: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, *FILES],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


def test_kernels_in_the_interpreter() -> None:
    interpreted("-m", "not long")


@pytest.mark.long
def test_more_shapes_in_the_interpreter() -> None:
    interpreted("-m", "long")

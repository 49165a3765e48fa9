"""The Triton kernels' numerics without a GPU. Triton's interpreter is chosen at import: processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TTT = ["kernels/interpreted.py", "micro/interpreted_layer.py"]
OTHERS = [f"kernels/interpreted_{name}.py" for name in ("attention", "peers", "stream")]  # each import takes seconds


@pytest.mark.parametrize("chosen", ["not long", pytest.param("long", marks=pytest.mark.long)])
@pytest.mark.parametrize("files", [TTT, OTHERS], ids=["ttt", "others"])
def test_kernels_in_the_interpreter(files: list[str], chosen: str) -> None:
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", chosen, *(tests / one for one in files)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout

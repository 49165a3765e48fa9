"""A fork of the process that has imported everything can use the GPU."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from ttt_mlflow.app.fork_server import ForkServer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
CELL = """
import sys
assert "torch._inductor.compile_fx" in sys.modules
import pynvml, torch
pynvml.nvmlInit()
assert pynvml.nvmlDeviceGetCount()
print(torch.compile(lambda x: (x + 1).sum())(torch.ones(1000, device="cuda")).item())
"""


def test_forks_measure_on_the_gpu(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text(CELL)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    server = ForkServer(environment)
    try:
        assert server.wait_until_ready() is None
        for _ in range(2):
            with tempfile.TemporaryFile() as said:
                fork = server.start("cell", environment, said)
                code = fork.wait(120)
                said.seek(0)
                assert (code, fork.stdout.read()) == (0, b"2000.0\n"), said.read().decode()
    finally:
        server.close()


def test_neither_nvml_nor_a_loaded_library_starts_the_driver() -> None:
    program = """
import ctypes, pynvml
from ttt_mlflow.app.fork_server import _driver_is_started
pynvml.nvmlInit()
driver = ctypes.CDLL("libcuda.so.1")
assert not _driver_is_started()
assert driver.cuInit(0) == 0
assert _driver_is_started()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

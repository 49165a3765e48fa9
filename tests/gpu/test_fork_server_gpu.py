"""A fork of the process that has imported everything can use the GPU."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from tests.project import ROOT
from ttt_mlflow.app import fork_server
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
ASK = """
import ctypes, json, os, pynvml
from ttt_mlflow.app.fork_server import driver_is_started
def told(after):
    files = {os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)}
    return [after, driver_is_started(), sorted(file for file in files if "nvidia" in file)]
said = [told("nothing")]
pynvml.nvmlInit()
said.append(told("nvmlInit"))
driver = ctypes.CDLL("libcuda.so.1")
said.append(told("the library"))
code = driver.cuInit(0)
said.append(told(f"cuInit: {code}"))
print(json.dumps(said))
"""


def test_forks_measure_on_the_gpu(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text(CELL)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    server = ForkServer(environment)
    try:
        assert server.wait_until_ready() is None
        assert not server.left_out
        for _ in range(2):
            with tempfile.TemporaryFile() as said:
                fork = server.start("cell", environment, said)
                code = fork.wait(120)
                said.seek(0)
                assert (code, fork.stdout.read()) == (0, b"2000.0\n"), said.read().decode()
    finally:
        server.close()


def test_no_import_starts_the_driver() -> None:
    """What it prints names each import that does, with the stack of the call."""
    modules = [*fork_server.MODULES, *fork_server._installed()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.driver_starts", *modules], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_neither_nvml_nor_a_loaded_library_starts_the_driver() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    started = {after: is_started for after, is_started, _ in said}
    assert started == {"nothing": False, "nvmlInit": False, "the library": False, "cuInit: 0": True}, said

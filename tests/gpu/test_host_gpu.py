"""A real GPU: a terminal that goes away, a process that is killed, and GPUs in another order."""

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pynvml
import pytest
import torch

from tests.project import ROOT, environment, measuring, new_store, ttt_mlflow_run, wait_until
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import local_row

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
RUN = {"model_name": "ttt-profile", "batch": "256", "genlen": "128", "use_compile": "false"}
ENDLESS = {**RUN, "repeats": "1000000", "max_seconds": "3600"}
HELD_BYTES = 8 * 10**9
PYTHON_PATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

# A terminal that goes away


def in_a_terminal(command: list[str], folder: Path, until: Callable[[], bool]) -> int:
    """Run ``command`` in ``folder``, in a terminal that goes away once ``until()`` holds. Returns the exit code."""
    env = {**environment(new_store(folder)), "PYTHONPATH": PYTHON_PATH}
    pid, leader = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, env)
    process = psutil.Process(pid)
    try:
        while not until():
            assert process.status() != psutil.STATUS_ZOMBIE, "it ended before it was measuring"
            # nohup lets nothing of the process have the terminal: a terminal that nobody has open cannot be read
            if select.select([leader], [], [], 0.1)[0]:
                with suppress(OSError):
                    os.read(leader, 65536)
        os.close(leader)
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)
    finally:
        process.kill()
        _, code = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(code)


def only_record(logdir: Path) -> Journal:
    (path,) = logdir.iterdir()
    return Journal.open(path)


@pytest.mark.parametrize("before", [[], ["nohup"]], ids=str)
def test_a_run_whose_terminal_goes_away_goes_on_and_is_valid(before: list[str], tmp_path: Path) -> None:
    logdir = tmp_path / "runs"
    command = [*before, *ttt_mlflow_run({**RUN, "max_seconds": "12", "logdir": str(logdir)})]
    code = in_a_terminal(command, tmp_path, lambda: measuring(logdir))
    record = only_record(logdir)
    assert (code, record.status["status"]) == (0, "ok")
    verdict = (record.artifacts / "verdict.json").read_text()
    assert record.tags["ttt.verdict"] == "valid", verdict
    assert record.published, "it is in the store"
    assert not (record.path / "passes.jsonl").exists()


def test_a_process_that_is_killed_leaves_its_passes(tmp_path: Path) -> None:
    command = ttt_mlflow_run({**ENDLESS, "logdir": str(tmp_path / "runs")})
    process = subprocess.Popen(command, cwd=ROOT, env=environment(new_store(tmp_path)), stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: (tmp_path / "runs").is_dir() and measuring(tmp_path / "runs"))
    finally:
        process.kill()
        process.wait()
    record = only_record(tmp_path / "runs")
    assert local_row(LocalRun(record)).metrics["decode_tokens_per_s"] > 0
    record.close_abandoned()
    assert record.status["status"] == "killed"
    assert record.metrics["decode_step_ms_p50"] > 0
    assert record.faults() == []


# Two GPUs

# what a process makes of CUDA_VISIBLE_DEVICES: the UUID and the name of the GPU that it would measure
LOOK = """
import json, torch
from ttt_mlflow.app.doctor.gpu import find_gpus
from ttt_mlflow.telemetry.host import device_uuid, host_facts
from ttt_mlflow.telemetry.sampler import NvmlSampler
device = torch.device("cuda")
torch.ones(1, device=device)
with NvmlSampler.open(device_uuid(device)) as sampler:
    print(json.dumps({
        "sampled": sampler.uuid.removeprefix("GPU-"),
        "recorded": host_facts(device)["gpu_uuid"],
        "doctor": find_gpus()[0].uuid,
    }))
"""


@pytest.fixture
def uuids() -> list[str]:
    """The UUIDs of all GPUs in NVML's order, without NVML's prefix."""
    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        found = [pynvml.nvmlDeviceGetUUID(handle).removeprefix("GPU-") for handle in handles]
    finally:
        pynvml.nvmlShutdown()
    if len(found) < 2:
        pytest.skip(f"needs two GPUs; this host has {len(found)}")
    return found


def only_visible(text: str) -> dict[str, str]:
    return {**environment(), "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": text, "PYTHONPATH": PYTHON_PATH}


@pytest.mark.parametrize("form", ["1", "1,0", " 1 , 0 ", "1,99", "GPU-{uuid}", "GPU-{first}"])
def test_each_form_of_visible_devices(form: str, uuids: list[str]) -> None:
    text = form.format(uuid=uuids[1], first=uuids[1][:8])
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=only_visible(text), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(("sampled", "recorded", "doctor"), uuids[1])


def test_all_numbers_are_of_the_gpu_that_was_used(uuids: list[str], tmp_path: Path) -> None:
    """In reversed order. This process holds memory on the other GPU, which no number of the run may show."""
    index = next(
        index
        for index in range(torch.cuda.device_count())
        if str(torch.cuda.get_device_properties(index).uuid) == uuids[0]
    )
    held = torch.ones(HELD_BYTES, dtype=torch.uint8, device=torch.device("cuda", index))
    torch.cuda.synchronize(index)
    logdir = tmp_path / "runs"
    command = ttt_mlflow_run({**RUN, "batch": "64", "max_seconds": "8", "logdir": str(logdir)})
    env = {**only_visible("1,0"), "MLFLOW_TRACKING_URI": new_store(tmp_path)}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = only_record(logdir)
    assert record.tags["ttt.gpu_uuid"] == uuids[1]
    assert record.metrics["peak_memory_allocated_gb"] < record.metrics["device_memory_used_gb"] < HELD_BYTES / 1e9
    assert record.metrics["gpu_utilization_pct_mean"] > 0
    processes = record.artifacts / "telemetry/processes.csv"
    assert not processes.exists(), processes.read_text()
    assert "other_process" not in record.tags.get("ttt.reasons", "")
    assert held.numel() == HELD_BYTES

"""The sampler and the timers on a real GPU."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pynvml
import pytest
import torch

from tests.catalog import by_name
from ttt_mlflow import names
from ttt_mlflow.measurement.budget import Budget
from ttt_mlflow.measurement.loop import Measurement, Observer, Pass, measure_passes
from ttt_mlflow.measurement.timing import StepTimer, StepTimes, time_once
from ttt_mlflow.report.clocks_chart import clocks_png
from ttt_mlflow.run.model_run import RunObserver
from ttt_mlflow.telemetry.host import device_uuid, host_facts
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.telemetry.samples import series, summarize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = torch.device("cuda", 0)
SIZE = 4096
PATIENCE_S = 60.0
HELD_BYTES = 1 << 30
# holds memory on the GPU, and with "compute" computes there, for as long as the file is there
NEIGHBOUR = f"""
import os, pathlib, sys, time, torch
held = torch.ones({HELD_BYTES}, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("ready as", os.getpid(), flush=True)
while pathlib.Path(sys.argv[2]).exists():
    if sys.argv[1] == "compute":
        for _ in range(100):
            held.add_(1)
        torch.cuda.synchronize()
    else:
        time.sleep(0.05)
"""


@pytest.fixture
def matrix() -> torch.Tensor:
    return torch.randn(SIZE, SIZE, device=DEVICE, dtype=torch.float16)


def test_uuid_is_that_of_the_torch_device() -> None:
    sampler = NvmlSampler.open(device_uuid(DEVICE))
    try:
        assert sampler.uuid.removeprefix("GPU-").removeprefix("MIG-") == device_uuid(DEVICE)
        total = sampler.memory_total_bytes
        assert total is not None
        # NVML counts what the driver keeps for itself as well
        assert total >= torch.cuda.get_device_properties(DEVICE).total_memory
    finally:
        sampler.stop()


def highest_sm_clock_mhz(uuid: str) -> float:
    """The highest SM clock that the card has."""
    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return float(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM))
    finally:
        pynvml.nvmlShutdown()


def test_sections_of_real_work(matrix: torch.Tensor, tmp_path: Path) -> None:
    timer = StepTimer(400, DEVICE)

    def product() -> object:
        return torch.mm(matrix, matrix)

    with NvmlSampler.open(device_uuid(DEVICE)) as sampler:
        time.sleep(0.5)  # samples of the idle GPU
        measurement = Measurement()
        one = Pass(lambda: timer.time_steps(product), lambda: timer.time_steps(product))
        measure_passes(one, Budget(1, 20, 0.5, 60.0), RunObserver(sampler, lambda fraction, text: None), measurement)
    frame = sampler.frame()
    metrics = by_name(summarize(frame, sampler.sections))
    assert len(sampler.sections) == 20
    assert all(repeat.complete for repeat in measurement.repeats)
    assert frame["measured"].any()

    assert metrics["sm_clock_mhz_max"] >= metrics["sm_clock_mhz_mean"] >= metrics["sm_clock_mhz_min"] > 0
    assert metrics["memory_clock_mhz_mean"] > 0
    assert metrics["power_w_mean"] > frame.loc[~frame["measured"], "power_w"].min()
    assert 0 < metrics["temperature_c_max"] < 120
    assert metrics["gpu_utilization_pct_mean"] > 0
    assert metrics["device_memory_used_gb"] > matrix.nbytes / 1e9
    # under load the clock is up: an idle card stands at a fifth of its highest, a power-capped one above two thirds
    assert metrics["sm_clock_mhz_mean"] > highest_sm_clock_mhz(sampler.uuid) / 2
    assert names.SYSTEM_SM_CLOCK.of(0) in series(frame, 0)
    assert clocks_png(frame, sampler.sections).startswith(b"\x89PNG")
    print(f"refused: {sampler.refused}; read_ms p50 {frame['read_ms'].median():.3f}; {metrics}")


def test_events_agree_with_the_wall_clock(matrix: torch.Tensor) -> None:
    timer = StepTimer(200, DEVICE)
    timer.time_steps(lambda: torch.mm(matrix, matrix))
    times = timer.time_steps(lambda: torch.mm(matrix, matrix))
    assert times.complete
    assert times.step_ms.shape == (200,)
    assert (times.step_ms > 0).all()
    assert times.total_ms == pytest.approx(float(np.sum(times.step_ms)), rel=1e-3)
    assert times.total_ms <= times.wall_ms
    _, once_ms = time_once(lambda: torch.mm(matrix, matrix), DEVICE)
    assert once_ms > 0


def test_out_of_memory_keeps_the_finished_steps(matrix: torch.Tensor) -> None:
    held: list[torch.Tensor] = []

    def step() -> None:
        torch.mm(matrix, matrix)
        if len(held) == 3:
            held.append(torch.empty(1 << 50, device=DEVICE, dtype=torch.uint8))
        held.append(matrix)

    def timed() -> StepTimes:
        return StepTimer(8, DEVICE).time_steps(step)

    measurement = Measurement()
    with pytest.raises(torch.OutOfMemoryError):
        measure_passes(Pass(timed, timed), Budget(0, 1, 0.5, 60.0), Observer(), measurement)
    assert [len(repeat.step_ms) for repeat in measurement.repeats] == [3]
    assert not measurement.repeats[0].complete


def test_host_facts_name_the_gpu() -> None:
    facts: dict[str, Any] = host_facts(DEVICE)
    assert facts["gpu_name"] == torch.cuda.get_device_name(DEVICE)
    assert facts["driver"]
    assert facts["cuda"] == torch.version.cuda
    assert facts["cuda_driver"]
    assert facts["gpu_enforced_power_limit_w"] > 0
    assert facts["gpu_sm_clock_max_mhz"] > 0


def measured_for(sampler: NvmlSampler, seconds: float, work: Callable[[], object]) -> None:
    """A section of about this long with nothing but this work on the GPU."""
    work()
    torch.cuda.synchronize()
    sampler.mark("begin")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(20):
            work()
        torch.cuda.synchronize()
    sampler.mark("end")


def test_gpm_sees_what_a_copy_and_a_matrix_product_use(matrix: torch.Tensor) -> None:
    source = torch.ones(1 << 30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    found = {}
    for name, work in (("copy", lambda: target.copy_(source)), ("product", lambda: torch.mm(matrix, matrix))):
        with NvmlSampler.open(device_uuid(DEVICE)) as sampler:
            if "gpm" in sampler.refused:
                pytest.skip(f"no GPM: {sampler.refused['gpm']}")
            measured_for(sampler, 1.5, work)
        frame = sampler.frame()
        assert {"sm_active_pct", "tensor_active_pct", "dram_bandwidth_pct", "gpm_span_ms"} <= set(frame.columns)
        assert frame["gpm_span_ms"].dropna().min() > 100
        found[name] = by_name(summarize(frame, sampler.sections))
        assert names.SYSTEM_DRAM_BANDWIDTH.of(0) in series(frame, 0)
        print(name, {metric: value for metric, value in found[name].items() if metric.endswith("_pct_mean")})
    assert found["copy"]["dram_bandwidth_pct_mean"] > found["product"]["dram_bandwidth_pct_mean"]
    assert found["product"]["tensor_active_pct_mean"] > found["copy"]["tensor_active_pct_mean"]
    assert 0 < found["copy"]["dram_bandwidth_pct_mean"] <= 100
    assert 0 < found["product"]["sm_active_pct_mean"] <= 100


def test_counters_and_queries_are_complete(matrix: torch.Tensor) -> None:
    with NvmlSampler.open(device_uuid(DEVICE)) as sampler:
        for _ in range(2):
            measured_for(sampler, 0.7, lambda: torch.mm(matrix, matrix))
    metrics = by_name(summarize(sampler.frame(), sampler.sections))
    for policy in names.VIOLATION_POLICIES:
        if f"violation_{policy}" not in sampler.refused:
            assert 0 <= metrics[names.VIOLATION_S[policy].name] <= 1.2 * sum(one.seconds for one in sampler.sections)
    if "ecc_uncorrected_errors" not in sampler.refused:
        assert metrics["ecc_uncorrected_errors"] == 0
    table = sampler.queries()
    print(table.to_string(), f"read_ms: {sampler.frame()['read_ms'].describe()}", sep="\n")
    rows = table.set_index("query")
    assert {"sm_clock", "power", "power_instant", "memory", "gpm", "energy", "processes"} <= set(rows.index)
    assert not rows["covers"].isna().any()
    answered = rows[rows["refused"].isna()]
    assert (answered["calls"] > 0).all()
    assert (answered["mean_us"] > 0).all()
    assert (answered["of"] != "").all()


@pytest.fixture
def neighbor(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Starts a process of its own on the GPU: not one of this process's children, which would be its own work."""
    there, said = tmp_path / "there", tmp_path / "said.txt"

    def start(what: str) -> None:
        there.touch()
        program = [sys.executable, "-c", NEIGHBOUR, what, str(there)]
        subprocess.run(["sh", "-c", '"$@" >"$0" 2>&1 &', str(said), *program], check=True)
        deadline = time.monotonic() + PATIENCE_S
        while not (said.exists() and "ready" in said.read_text()):
            assert time.monotonic() < deadline, said.read_text() if said.exists() else "nothing said"
            time.sleep(0.1)

    with NvmlSampler.open(device_uuid(DEVICE)) as sampler:
        uuid = sampler.uuid
    before = listed(uuid)
    yield start
    there.unlink(missing_ok=True)
    if said.exists() and "ready as" in said.read_text():
        wait_for_the_end(int(said.read_text().split("ready as")[1].split()[0]), uuid, before)


def listed(uuid: str) -> int:
    """How many processes NVML lists on the card: one that has ended for a little longer."""
    pynvml.nvmlInit()
    try:
        return len(pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByUUID(uuid)))
    finally:
        pynvml.nvmlShutdown()


def wait_for_the_end(pid: int, uuid: str, before: int) -> None:
    """Return when the process is gone, for NVML too; a zombie that nobody waits for holds nothing any more."""
    deadline = time.monotonic() + PATIENCE_S
    while (psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE) or listed(uuid) > before:
        assert time.monotonic() < deadline, "the neighbor did not end"
        time.sleep(0.1)


@pytest.mark.parametrize("what", ["hold", "compute"])
def test_who_else_is_on_the_card(what: str, matrix: torch.Tensor, neighbor: Callable[[str], None]) -> None:
    with NvmlSampler.open(device_uuid(DEVICE)) as sampler:
        neighbor(what)
        measured_for(sampler, 3.0, lambda: torch.mm(matrix, matrix))
    others = sampler.other_processes()
    print(others, sampler.refused)
    assert others is not None, sampler.refused
    found = [one for one in others if one.memory_bytes is None or one.memory_bytes >= HELD_BYTES]
    assert len(found) == 1, others
    if what == "hold":
        assert not found[0].sm_utilization_pct
    elif found[0].sm_utilization_pct is not None:
        assert found[0].sm_utilization_pct > 0


def test_nobody_else_is_on_the_card(matrix: torch.Tensor) -> None:
    with NvmlSampler.open(device_uuid(DEVICE)) as sampler:
        measured_for(sampler, 0.5, lambda: torch.mm(matrix, matrix))
    assert sampler.other_processes() == [], sampler.refused

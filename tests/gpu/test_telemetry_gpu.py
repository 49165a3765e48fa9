"""The sampler and the timers on a real GPU."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pynvml
import pytest
import torch

from ttt_mlflow.measure.loop import Measurement, measure_decode
from ttt_mlflow.measure.timing import StepTimer, time_once
from ttt_mlflow.profilers.torch_profiler import profile_steps
from ttt_mlflow.telemetry.host import device_uuid, host_facts
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.telemetry.samples import plot_clocks, series, summarise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = torch.device("cuda", 0)
SIZE = 4096


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
    with NvmlSampler.open(device_uuid(DEVICE)) as sampler:
        time.sleep(0.5)  # samples of the idle GPU
        measurement = measure_decode(
            lambda: timer.time_steps(lambda: torch.mm(matrix, matrix)),
            warmup=1,
            repeats=20,
            precision_pct=0.5,
            max_seconds=60.0,
            on_section=sampler.mark,
        )
    frame = sampler.frame()
    metrics = summarise(frame, sampler.sections)
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
    assert "system/gpu_0_sm_clock_megahertz" in series(frame, 0)
    plot_clocks(frame, sampler.sections, tmp_path / "clocks.png")
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

    measurement = Measurement()
    with pytest.raises(torch.OutOfMemoryError):
        measure_decode(
            lambda: StepTimer(8, DEVICE).time_steps(step),
            warmup=0,
            repeats=1,
            precision_pct=0.5,
            max_seconds=60.0,
            measurement=measurement,
        )
    assert [len(repeat.step_ms) for repeat in measurement.repeats] == [3]
    assert not measurement.repeats[0].complete


def test_profile_names_the_kernels(matrix: torch.Tensor, tmp_path: Path) -> None:
    profile_steps(lambda: torch.mm(matrix, matrix), 3, tmp_path, DEVICE)
    table = pd.read_csv(tmp_path / "kernels.csv")
    assert table.loc[0, "calls"] == 3
    assert table["share_pct"].sum() == pytest.approx(100)
    assert not table["name"].str.startswith("step ").any()
    assert (tmp_path / "trace.json.gz").stat().st_size > 0


def test_host_facts_name_the_gpu() -> None:
    facts = host_facts(DEVICE)
    assert facts["gpu_name"] == torch.cuda.get_device_name(DEVICE)
    assert facts["driver"]
    assert facts["cuda"] == torch.version.cuda

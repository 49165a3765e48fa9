"""The first run on a GPU measures its ceilings, says so, keeps them where it can, and uses them in any case."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.telemetry.fake_nvml import GPU_UUID, FakeNvml
from ttt_mlflow.config import RunConfig
from ttt_mlflow.measurement import ceilings_cache
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.ceilings_cache import known_ceilings
from ttt_mlflow.models.entry import ModelEntry, ModelRequest
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.run import gpu_ceilings
from ttt_mlflow.run.gpu_ceilings import FoundCeilings, find_ceilings
from ttt_mlflow.run.plan import Plan
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.telemetry.processes import GpuProcess
from ttt_mlflow.workload import Workload

CEILINGS = GpuCeilings(read_gb_per_s=4480.0, copy_gb_per_s=4270.0, matmul_tflops=700.0)
GPU = torch.device("cuda", 0)


def plan(device: str = "cuda", dtype: torch.dtype = torch.float16, entry: ModelEntry | None = None) -> Plan:
    used = RunConfig.parse({"device": device})
    request = ModelRequest(used.model_name, "mlp_1_dual", dtype, torch.device(device), 0, None)
    workload = Workload("decode", used.batch, used.promptlen, used.genlen)
    return Plan(used, used, workload, entry or find_model("ttt-1b"), request, [], None)


class Gpu:
    """A stand-in for a GPU whose ceilings were never measured; it counts how often they are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.measured = 0
        properties = SimpleNamespace(uuid=GPU_UUID, multi_processor_count=132, name="NVIDIA H200")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)  # also on a machine with a GPU
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
        monkeypatch.setattr(gpu_ceilings, "measure_ceilings", self.measure)

    def measure(self, device: torch.device) -> GpuCeilings:
        self.measured += 1
        return CEILINGS


class Sampler:
    """A stand-in for the NVML sampler that sees ``others`` in whatever section is marked."""

    def __init__(self, *others: GpuProcess) -> None:
        self.sections: list[str] = []
        self.others = others

    def mark(self, edge: str) -> None:
        self.sections.append(edge)

    def forget_sections(self) -> None:
        self.sections.clear()

    def other_processes(self, sections: list[str]) -> list[GpuProcess]:
        assert sections == ["begin", "end"], "of the ceilings' measurement"
        return list(self.others)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Gpu(monkeypatch)


def found(one: Plan, sampler: Any = None) -> tuple[FoundCeilings, str]:
    said = io.StringIO()
    return find_ceilings(one, Reporter(Console(file=said, width=500)), sampler), said.getvalue()


def test_the_first_run_measures_and_the_second_reads(gpu: Gpu) -> None:
    first, said = found(plan(), sampler := Sampler())
    assert first == FoundCeilings(CEILINGS)
    assert "The GPU's ceilings were not known and took " in said
    assert "it reads 4,480 GB/s, copies 4,270 GB/s, multiplies 700 TFLOP/s; they are kept for later runs" in said
    assert said.count("\n") == 1
    assert sampler.sections == [], "the run's own sections follow"
    assert known_ceilings(GPU) == CEILINGS
    assert found(plan()) == (FoundCeilings(CEILINGS), "")
    assert gpu.measured == 1


def test_what_cannot_be_kept_is_used(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError("No space left on device")

    monkeypatch.setattr(ceilings_cache, "store", full)
    first, said = found(plan())
    assert first.ceilings == CEILINGS
    assert "700 TFLOP/s; the ceilings are not kept for later runs: No space left on device" in said


@pytest.mark.parametrize("error", [RuntimeError("no kernel image"), ValueError("a compiler's own error")])
def test_a_failure_leaves_the_run_without_a_roofline(
    gpu: Gpu, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: torch.device) -> GpuCeilings:
        raise error

    monkeypatch.setattr(gpu_ceilings, "measure_ceilings", fail)
    first, said = found(plan(), sampler := Sampler())
    assert first.ceilings is None
    assert first.missing is not None
    assert "doctor --measure` measures them; measuring them now failed: " in first.missing
    assert str(error) in first.missing
    assert (said, sampler.sections) == ("", [])


def test_beside_another_process_nothing_is_kept(gpu: Gpu) -> None:
    idle = GpuProcess(8, "holder", 10**9, 0.0)
    first, _ = found(plan(), Sampler(GpuProcess(7, "python", 10**9, 40.0), idle))
    assert first.ceilings is None
    assert "would be too low, beside python (pid 7)" in str(first.missing)
    again, _ = found(plan(), Sampler(idle))
    assert again.ceilings == CEILINGS
    assert gpu.measured == 2


def test_what_needs_no_ceilings_measures_none(gpu: Gpu) -> None:
    silent = ModelEntry("toy", find_model("ttt-1b").factory, "counts nothing")
    assert found(plan("cpu")) == found(plan(entry=silent)) == (FoundCeilings(), "")
    other, _ = found(plan(dtype=torch.float32))
    assert "measured in 16-bit types" in str(other.missing)
    assert gpu.measured == 0

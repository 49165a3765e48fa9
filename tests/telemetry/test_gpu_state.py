"""What NVML says about a card at one moment, from a stand-in for NVML."""

import pytest

from tests.telemetry.fake_nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_UUID,
    MIG_UUID,
    NOT_SUPPORTED,
    FakeNvml,
    process,
)
from ttt_mlflow.telemetry.gpu_state import gpu_facts, read_gpu_state, visible_to_nvml
from ttt_mlflow.telemetry.nvml import TelemetryUnavailable
from ttt_mlflow.telemetry.processes import GpuProcess

FIRST, SECOND = 2**30, 2**30 + 1  # numbers that no process of this host has


def test_a_cards_state(nvml: FakeNvml) -> None:
    nvml.processes, nvml.process_names = [process(FIRST), process(SECOND, None)], {FIRST: "/usr/bin/trainer"}
    state = read_gpu_state(GPU_UUID.removeprefix("GPU-"))  # as PyTorch spells it
    assert (state.uuid, state.driver) == (GPU_UUID, "580.159.04")
    assert (state.sm_clock, state.sm_clock_max) == (1980, 1980)
    assert (state.memory_clock, state.memory_clock_max) == (3201, 3201)
    assert (state.power, state.power_limit) == (500.0, 700.0)
    assert (state.temperature, state.utilization) == (41, 97)
    assert state.processes == [
        GpuProcess(FIRST, "trainer", 3_000_000_000, None),
        GpuProcess(SECOND, None, None, None),
    ]
    assert state.gpm is True
    assert state.refused == {}
    assert nvml.open_count == 0


def test_what_the_card_refuses_is_absent_and_named(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetEnforcedPowerLimit"] = NOT_SUPPORTED
    nvml.refuses["nvmlGpmQueryDeviceSupport"] = FUNCTION_NOT_FOUND
    state = read_gpu_state(GPU_UUID)
    assert (state.power_limit, state.gpm) == (None, None)
    assert state.refused == {"power_limit": "Not Supported", "gpm": "Function Not Found"}
    assert state.power == 500.0


def test_a_card_that_nvml_does_not_know(nvml: FakeNvml) -> None:
    with pytest.raises(TelemetryUnavailable, match="does not answer for the GPU GPU-other"):
        read_gpu_state("GPU-other")
    assert nvml.open_count == 0


def test_an_instance_has_its_cards_clocks_and_its_own_processes(nvml: FakeNvml) -> None:
    nvml.uuids = [GPU_UUID, MIG_UUID]
    state = read_gpu_state(MIG_UUID)
    assert (state.uuid, state.sm_clock, state.gpm) == (MIG_UUID, 1980, True)
    assert state.refused == {}


def test_processes_that_are_not_listed(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetComputeRunningProcesses"] = NOT_SUPPORTED
    state = read_gpu_state(GPU_UUID)
    assert (state.processes, state.refused) == (None, {"processes": "Not Supported"})


def test_how_a_card_is_set_up(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetMigMode"] = NOT_SUPPORTED
    assert gpu_facts(GPU_UUID) == {
        "gpu_power_limit_w": 700.0,
        "gpu_enforced_power_limit_w": 700.0,
        "gpu_sm_clock_max_mhz": 1980,
        "gpu_memory_clock_max_mhz": 3201,
        "gpu_ecc": True,
        "gpu_persistence_mode": True,
        "gpu_pcie_generation": 5,
        "gpu_pcie_width": 16,
        "gpu_vbios": "96.00.B0.00.01",
    }
    assert nvml.open_count == 0


def test_how_many_nvml_sees(nvml: FakeNvml) -> None:
    assert visible_to_nvml() == 1
    assert nvml.open_count == 0
    nvml.refuses["nvmlInit"] = DRIVER_NOT_LOADED
    with pytest.raises(TelemetryUnavailable, match="Driver Not Loaded"):
        visible_to_nvml()

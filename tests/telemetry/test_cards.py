"""What NVML says about a card at one moment, from a stand-in for NVML."""

from types import SimpleNamespace

import pytest

from tests.telemetry.fake_nvml import DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND, GPU_UUID, NOT_SUPPORTED, FakeNvml
from ttt_mlflow.telemetry.cards import CardProcess, read_card, visible_to_nvml
from ttt_mlflow.telemetry.nvml import TelemetryUnavailable


def test_a_cards_state(nvml: FakeNvml) -> None:
    nvml.processes = [SimpleNamespace(pid=7, usedGpuMemory=3_000_000_000), SimpleNamespace(pid=8, usedGpuMemory=None)]
    state = read_card(GPU_UUID.removeprefix("GPU-"))  # as PyTorch spells it
    assert (state.uuid, state.driver) == (GPU_UUID, "580.159.04")
    assert (state.sm_clock, state.sm_clock_max) == (1980, 1980)
    assert (state.memory_clock, state.memory_clock_max) == (3201, 3201)
    assert (state.power, state.power_limit) == (500.0, 700.0)
    assert (state.temperature, state.utilization) == (41, 97)
    assert state.processes == [CardProcess(7, 3_000_000_000), CardProcess(8, None)]
    assert state.gpm is True
    assert state.refused == {}
    assert nvml.open_count == 0


def test_what_the_card_refuses_is_absent_and_named(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetEnforcedPowerLimit"] = NOT_SUPPORTED
    nvml.refuses["nvmlGpmQueryDeviceSupport"] = FUNCTION_NOT_FOUND
    state = read_card(GPU_UUID)
    assert (state.power_limit, state.gpm) == (None, None)
    assert state.refused == {"power_limit": "Not Supported", "gpm": "Function Not Found"}
    assert state.power == 500.0


def test_a_card_that_nvml_does_not_know(nvml: FakeNvml) -> None:
    with pytest.raises(TelemetryUnavailable, match="does not answer for the GPU GPU-other"):
        read_card("GPU-other")
    assert nvml.open_count == 0


def test_how_many_nvml_sees(nvml: FakeNvml) -> None:
    assert visible_to_nvml() == 1
    assert nvml.open_count == 0
    nvml.refuses["nvmlInit"] = DRIVER_NOT_LOADED
    with pytest.raises(TelemetryUnavailable, match="Driver Not Loaded"):
        visible_to_nvml()

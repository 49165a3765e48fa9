"""The way to NVML: what it says when it is not there, and a device by its UUID."""

import sys

import pytest

from tests.telemetry import fake_nvml
from tests.telemetry.fake_nvml import GPU_UUID, MIG_UUID, FakeNvml
from ttt_mlflow.telemetry.nvml import (
    Device,
    TelemetryUnavailable,
    cuda_driver_version,
    driver_version,
    find_device,
    load_nvml,
)
from ttt_mlflow.telemetry.sampler import NvmlSampler

TORCH_UUID = GPU_UUID.removeprefix("GPU-")


def test_without_nvidia_ml_py_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    with pytest.raises(TelemetryUnavailable) as raised:
        NvmlSampler.open(TORCH_UUID)
    message = str(raised.value)
    assert "\n" not in message
    assert "clocks, power, temperature" in message
    assert "pip install nvidia-ml-py" in message
    assert driver_version() is None


def test_without_a_driver_it_says_so(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlInit"] = fake_nvml.DRIVER_NOT_LOADED
    with pytest.raises(TelemetryUnavailable, match=r"NVML does not start \(Driver Not Loaded\); .*driver"):
        NvmlSampler.open(TORCH_UUID)


def test_driver_version(nvml: FakeNvml) -> None:
    assert driver_version() == "580.159.04"
    assert nvml.open_count == 0
    nvml.refuses["nvmlSystemGetDriverVersion"] = fake_nvml.NOT_SUPPORTED
    assert driver_version() is None
    assert nvml.open_count == 0


def test_cuda_driver_version(nvml: FakeNvml) -> None:
    assert cuda_driver_version() == "13.1"
    nvml.refuses["nvmlInit"] = fake_nvml.DRIVER_NOT_LOADED
    assert cuda_driver_version() is None
    assert nvml.open_count == 0


def test_a_gpu_is_asked_itself(nvml: FakeNvml) -> None:
    device = find_device(load_nvml(), TORCH_UUID)
    assert device == Device(GPU_UUID, GPU_UUID)
    assert device.handles == [("GPU", GPU_UUID)]


def test_an_instance_is_asked_before_its_card(nvml: FakeNvml) -> None:
    nvml.uuids = [GPU_UUID, MIG_UUID]
    device = find_device(load_nvml(), MIG_UUID.removeprefix("MIG-"))
    assert device == Device(MIG_UUID, MIG_UUID, parent=GPU_UUID)
    assert device.handles == [("instance", MIG_UUID), ("parent GPU", GPU_UUID)]


def test_an_instance_whose_card_nvml_does_not_give(nvml: FakeNvml) -> None:
    nvml.uuids = [MIG_UUID]
    nvml.refuses["nvmlDeviceGetDeviceHandleFromMigDeviceHandle"] = fake_nvml.NOT_SUPPORTED
    assert find_device(load_nvml(), MIG_UUID).handles == [("instance", MIG_UUID)]

"""Whether this process holds a CUDA context, asked of a stand-in for the driver's library."""

import ctypes
from typing import Any
from uuid import UUID

import pytest

from ttt_mlflow.telemetry.context import cuda_uuid, holds_context

FIRST = UUID("11111111-0000-4000-8000-222222222222")
SECOND = UUID("6d3b1f3a-0000-4000-8000-5a5a5a5a5a5a")


class FakeCuda:
    """libcuda with two GPUs; every function returns CUDA's status."""

    def __init__(self, active: dict[int, int], initialised: bool = True) -> None:
        self.active, self.initialised = active, initialised
        self.status_of_state = 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 2
        return 0 if self.initialised else 3

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = 10 + ordinal
        return 0

    def cuDeviceGetUuid_v2(self, raw: Any, device: Any) -> int:
        raw._obj[:] = list((FIRST, SECOND)[device.value - 10].bytes)
        return 0

    def cuDevicePrimaryCtxGetState(self, device: Any, flags: Any, active: Any) -> int:
        active._obj.value = self.active[device.value - 10]
        return self.status_of_state


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda({0: 0, 1: 1})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: {"libcuda.so.1": fake}[name])
    return fake


@pytest.mark.parametrize("prefix", ["", "GPU-", "MIG-"])
def test_the_device_is_found_by_uuid(cuda: FakeCuda, prefix: str) -> None:
    assert holds_context(f"{prefix}{FIRST}") is False
    assert holds_context(f"{prefix}{SECOND}") is True


def test_the_uuid_of_a_device(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [cuda_uuid(ordinal) for ordinal in (0, 1)] == [str(FIRST), str(SECOND)]
    monkeypatch.delattr(FakeCuda, "cuDeviceGetUuid_v2")  # a driver from before it
    assert cuda_uuid(0) is None


def test_where_cuda_was_not_started_there_is_no_context(cuda: FakeCuda) -> None:
    cuda.initialised = False
    assert holds_context(str(SECOND)) is False


def test_not_known(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert holds_context("of-another-card") is None
    cuda.status_of_state = 1
    assert holds_context(str(SECOND)) is None
    monkeypatch.delattr(FakeCuda, "cuDeviceGetUuid_v2")  # a driver from before it
    assert holds_context(str(SECOND)) is None


def test_without_a_driver_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert holds_context(str(SECOND)) is None
    assert cuda_uuid(0) is None

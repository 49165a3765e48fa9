"""The GPUs of this process, with a driver that is not there: its functions are replaced, as only hardware may be."""

import ctypes
from typing import Any

import pytest

from ttt_mlflow.telemetry.gpus import Gpu, visible_gpus


class Driver:
    """Two GPUs. failing: the function that returns an error."""

    def __init__(self, failing: str = "") -> None:
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        if name == self._failing:
            return lambda *arguments: 100
        return {
            "cuInit": lambda flags: 0,
            "cuDeviceGetCount": lambda count: self._put(count, 2),
            "cuDeviceGet": lambda device, number: self._put(device, number),
            "cuDeviceGetUuid_v2": lambda raw, device: self._fill(raw, device.value),
            "cuDeviceGetName": self._name,
            "cuDeviceTotalMem_v2": lambda total, device: self._put(total, 141 * 10**9),
        }[name]

    @staticmethod
    def _put(reference: Any, value: int) -> int:
        reference._obj.value = value
        return 0

    @staticmethod
    def _fill(reference: Any, value: int) -> int:
        reference._obj[15] = value
        return 0

    @staticmethod
    def _name(buffer: Any, size: int, device: Any) -> int:
        buffer.value = b"NVIDIA H200"
        return 0


def test_what_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert visible_gpus() == [
        Gpu(number, "NVIDIA H200", f"GPU-00000000-0000-0000-0000-00000000000{number}", 141 * 10**9) for number in (0, 1)
    ]
    assert str(visible_gpus()[1]) == "1 (NVIDIA H200)"


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGetCount", "cuDeviceGetName"])
def test_a_driver_that_fails(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(failing))
    assert visible_gpus() == []


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert visible_gpus() == []

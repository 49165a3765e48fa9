"""GPUs that are in use, or differ from their siblings, and one that is lost."""

import os

import pytest

from tests.telemetry.fake_nvml import DRIVER_NOT_LOADED, NOT_SUPPORTED, FakeNvml, process
from tests.telemetry.test_neighbors import EIGHT
from ttt_mlflow.telemetry.gpus import Gpu
from ttt_mlflow.telemetry.siblings import gpu_faults, why_lost

GPUS = [Gpu(number, "NVIDIA H200", uuid, 150_754_820_096) for number, uuid in enumerate(EIGHT)]


@pytest.fixture
def host(nvml: FakeNvml) -> FakeNvml:
    """Eight GPUs that are idle."""
    nvml.uuids = list(EIGHT)
    nvml.processes, nvml.utilization = [], 0
    return nvml


def texts(gpus: list[Gpu] = GPUS) -> list[str]:
    return [fault.text for fault in gpu_faults(gpus)]


def test_idle_and_equal_gpus_have_no_fault(host: FakeNvml) -> None:
    assert texts() == []
    assert host.open_count == 0


def test_a_gpu_in_use_is_named_with_who_uses_it(host: FakeNvml) -> None:
    host.users = {EIGHT[2]: [process(2**30), process(os.getpid())], EIGHT[5]: [process(2**30)]}
    host.utilizations = {EIGHT[2]: 61, EIGHT[5]: 5, EIGHT[6]: 90}
    host.process_names = {2**30: "/usr/bin/python --token=secret"}
    (fault,) = gpu_faults(GPUS)
    assert fault.text == "GPU 2 (NVIDIA H200) is in use by python (pid 1073741824) (61 % busy)"
    assert (fault.kind, fault.uuid) == ("busy", EIGHT[2])


def test_one_with_another_limit_or_memory_is_named(host: FakeNvml) -> None:
    host.power_limits = {EIGHT[3]: 500}
    smaller = Gpu(7, "NVIDIA H200", EIGHT[7], 141 * 10**9)
    assert texts([*GPUS[:7], smaller]) == [
        "GPU 3 (NVIDIA H200) has power limit 500 W, its siblings have 700 W",
        "GPU 7 (NVIDIA H200) has memory 141.0 GB, its siblings have 150.8 GB",
    ]


def test_a_gpu_of_another_kind_is_no_sibling(host: FakeNvml) -> None:
    host.power_limits = {EIGHT[1]: 72}
    assert texts([GPUS[0], Gpu(1, "NVIDIA L4", EIGHT[1], 24 * 10**9)]) == []


def test_of_two_that_differ_the_second_is_named(host: FakeNvml) -> None:
    host.power_limits = {EIGHT[0]: 500}
    assert texts(GPUS[:2]) == ["GPU 1 (NVIDIA H200) has power limit 700 W, its siblings have 500 W"]


def test_what_nvml_does_not_tell_is_no_fault(host: FakeNvml) -> None:
    host.refuse_everything(NOT_SUPPORTED)
    assert texts() == []
    assert texts([Gpu(0, "NVIDIA H200 MIG 1g.18gb", "GPU-unknown", 18 * 10**9)]) == []
    host.refuses["nvmlInit"] = DRIVER_NOT_LOADED
    assert texts() == []


def test_a_gpu_that_is_lost(host: FakeNvml) -> None:
    assert why_lost(EIGHT[1]) is None
    host.lost = {EIGHT[1]}
    assert why_lost(EIGHT[1]) == "GPU is lost"
    assert why_lost(EIGHT[0]) is None
    assert why_lost("GPU-unknown") == "Not Found"
    host.refuses["nvmlDeviceGetMemoryInfo"] = NOT_SUPPORTED
    assert why_lost(EIGHT[0]) is None, "an answer that is refused says nothing of the GPU"
    host.refuses["nvmlInit"] = DRIVER_NOT_LOADED
    assert why_lost(EIGHT[1]) is None
    assert host.open_count == 0

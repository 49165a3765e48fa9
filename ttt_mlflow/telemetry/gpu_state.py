"""The state of a GPU at one moment, from NVML: for the doctor and for the record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from ttt_mlflow.telemetry.nvml import Device, TelemetryUnavailable, find_device, load_nvml, text
from ttt_mlflow.telemetry.processes import GpuProcess, ProcessLists, process_name
from ttt_mlflow.telemetry.query import Query, of_either

T = TypeVar("T")


@dataclass(frozen=True)
class GpuState:
    """Readings of one GPU. A reading that is not available is None, and ``refused`` has NVML's message.

    Clocks in MHz, power in W, temperature in °C, utilization in %. processes: all processes on it, including this one.
    gpm: whether the GPU reports SM, tensor core and DRAM bandwidth utilization without a profiler. For a MIG instance,
    readings that it does not have are those of its GPU.
    """

    uuid: str
    driver: str
    sm_clock: int | None
    sm_clock_max: int | None
    memory_clock: int | None
    memory_clock_max: int | None
    power: float | None
    power_limit: float | None
    temperature: int | None
    utilization: int | None
    processes: list[GpuProcess] | None
    gpm: bool | None
    refused: dict[str, str] = field(default_factory=dict)


def visible_to_nvml() -> int:
    """The number of GPUs that NVML knows, even if PyTorch does not see them. Raises :class:`TelemetryUnavailable`."""
    nvml = load_nvml()
    try:
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError as error:
        raise TelemetryUnavailable(f"NVML does not count the GPUs ({error})", "run nvidia-smi -L to see them") from None
    finally:
        nvml.nvmlShutdown()


def read_gpu_state(uuid: str) -> GpuState:
    """The state of the GPU (or MIG instance) with this UUID. Raises :class:`TelemetryUnavailable` without NVML."""
    with _device(uuid) as (nvml, device):
        return _read(nvml, device)


def gpu_facts(uuid: str) -> dict[str, object]:
    """The settings of the GPU (or MIG instance) with this UUID. A value that it does not report is absent.

    gpu_power_limit_w, gpu_enforced_power_limit_w (the lowest of all limits in effect), gpu_sm_clock_max_mhz,
    gpu_memory_clock_max_mhz, gpu_ecc, gpu_mig, gpu_persistence_mode (whether they are on), gpu_pcie_generation,
    gpu_pcie_width (lanes; both as they are now), gpu_vbios. Raises :class:`TelemetryUnavailable` without NVML.
    """
    with _device(uuid) as (nvml, device):
        asked: dict[str, Callable[[Any], object]] = {
            "gpu_power_limit_w": lambda handle: nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3,
            "gpu_enforced_power_limit_w": lambda handle: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
            "gpu_sm_clock_max_mhz": lambda handle: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            "gpu_memory_clock_max_mhz": lambda handle: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "gpu_ecc": lambda handle: bool(nvml.nvmlDeviceGetEccMode(handle)[0]),
            "gpu_mig": lambda handle: bool(nvml.nvmlDeviceGetMigMode(handle)[0]),
            "gpu_persistence_mode": lambda handle: bool(nvml.nvmlDeviceGetPersistenceMode(handle)),
            "gpu_pcie_generation": lambda handle: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
            "gpu_pcie_width": lambda handle: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
            "gpu_vbios": lambda handle: text(nvml.nvmlDeviceGetVbiosVersion, handle),
        }
        answers = {
            name: Query(nvml, name, "now", of_either(device, function)).ask() for name, function in asked.items()
        }
    return {name: answer for name, answer in answers.items() if answer is not None}


@contextmanager
def _device(uuid: str) -> Iterator[tuple[ModuleType, Device]]:
    """NVML and the device, until the block ends."""
    nvml = load_nvml()
    try:
        yield nvml, find_device(nvml, uuid)
    except nvml.NVMLError as error:
        raise TelemetryUnavailable(
            f"NVML does not answer for the GPU {uuid} ({error})", "run nvidia-smi -L to list the GPUs that it knows"
        ) from None
    finally:
        nvml.nvmlShutdown()


def _read(nvml: ModuleType, device: Device) -> GpuState:
    refused: dict[str, str] = {}

    def ask(name: str, function: Callable[[Any], T]) -> T | None:
        query = Query(nvml, name, "now", of_either(device, function))
        answer = query.ask()
        if query.refused is not None:
            refused[name] = query.refused
        return answer

    lists = ProcessLists(nvml, device)
    listed = lists.read()
    if lists.compute.refused is not None:
        refused["processes"] = lists.compute.refused
    return GpuState(
        uuid=device.uuid,
        driver=text(nvml.nvmlSystemGetDriverVersion),
        sm_clock=ask("sm_clock", lambda handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        sm_clock_max=ask("sm_clock_max", lambda handle: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
        memory_clock=ask("memory_clock", lambda handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        memory_clock_max=ask(
            "memory_clock_max", lambda handle: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
        ),
        power=ask("power", lambda handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
        power_limit=ask("power_limit", lambda handle: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3),
        temperature=ask("temperature", lambda handle: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        utilization=ask("utilization", lambda handle: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        processes=None
        if listed is None
        else [GpuProcess(pid, process_name(nvml, pid), memory, None) for pid, memory in sorted(listed.items())],
        gpm=ask("gpm", lambda handle: bool(nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)),
        refused=refused,
    )

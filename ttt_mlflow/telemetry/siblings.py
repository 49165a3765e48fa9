"""What distinguishes a GPU from those of the same kind beside it, and who uses it, before anything is measured."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ttt_mlflow.telemetry.gpus import Gpu
from ttt_mlflow.telemetry.neighbors import BUSY_PCT
from ttt_mlflow.telemetry.nvml import Device, TelemetryUnavailable, load_nvml, refusals
from ttt_mlflow.telemetry.processes import ProcessLists, is_related, process_name
from ttt_mlflow.telemetry.query import Query, of_either


@dataclass(frozen=True)
class GpuFault:
    """Why a GPU is not like the others. kind: busy or different. text: in one line, with the GPU's number."""

    uuid: str
    kind: str
    text: str


def gpu_faults(gpus: Sequence[Gpu]) -> list[GpuFault]:
    """The GPUs that another process uses, and those that differ from their siblings, which have the same name.

    A GPU on which a process only holds memory is not in use. A GPU of which NVML tells nothing has no fault.
    """
    try:
        nvml = load_nvml()
    except TelemetryUnavailable:
        return []
    try:
        handles = {}
        for gpu in gpus:
            with suppress(*refusals(nvml)):
                handles[gpu.uuid] = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        known = [gpu for gpu in gpus if gpu.uuid in handles]
        busy = [fault for gpu in known if (fault := _busy(nvml, gpu, handles[gpu.uuid]))]
        settings = {gpu.uuid: _settings(nvml, gpu, handles[gpu.uuid]) for gpu in known}
        return [*busy, *_different(known, settings)]
    finally:
        nvml.nvmlShutdown()


def why_lost(uuid: str) -> str | None:
    """Why the GPU with this UUID does not work any more, as NVML tells; None if it does, or if NVML does not tell."""
    try:
        nvml = load_nvml()
    except TelemetryUnavailable:
        return None
    codes = ("NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_RESET_REQUIRED", "NVML_ERROR_NOT_FOUND", "NVML_ERROR_GPU_NOT_FOUND")
    lost = [getattr(nvml, code) for code in codes if hasattr(nvml, code)]
    try:
        nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError as error:
        return str(error) if error.value in lost else None
    finally:
        nvml.nvmlShutdown()
    return None


def _busy(nvml: ModuleType, gpu: Gpu, handle: Any) -> GpuFault | None:
    device = Device(handle, gpu.uuid)
    listed = ProcessLists(nvml, device).read() or {}
    others = [pid for pid in sorted(listed) if not is_related(pid)]
    used = Query(
        nvml, "utilization", "now", of_either(device, lambda one: float(nvml.nvmlDeviceGetUtilizationRates(one).gpu))
    ).ask()
    if not others or used is None or used <= BUSY_PCT:
        return None
    named = ", ".join(f"{process_name(nvml, pid) or 'unknown process'} (pid {pid})" for pid in others)
    return GpuFault(gpu.uuid, "busy", f"GPU {gpu} is in use by {named} ({used:.0f} % busy)")


def _settings(nvml: ModuleType, gpu: Gpu, handle: Any) -> dict[str, str]:
    """What siblings must share, each with its unit; a setting that is not told is absent."""
    sm, memory = nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM
    asked = {
        "power limit": lambda: f"{nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3:g} W",
        "highest SM clock": lambda: f"{nvml.nvmlDeviceGetMaxClockInfo(handle, sm)} MHz",
        "highest memory clock": lambda: f"{nvml.nvmlDeviceGetMaxClockInfo(handle, memory)} MHz",
        "SM clock for applications": lambda: f"{nvml.nvmlDeviceGetApplicationsClock(handle, sm)} MHz",
        "ECC": lambda: "on" if nvml.nvmlDeviceGetEccMode(handle)[0] else "off",
    }
    found = {"memory": f"{gpu.total_bytes / 1e9:.1f} GB"}
    for name, ask in asked.items():
        with suppress(*refusals(nvml), AttributeError):
            found[name] = ask()
    return found


def _different(gpus: Sequence[Gpu], settings: Mapping[str, Mapping[str, str]]) -> list[GpuFault]:
    """Those that differ from most of the GPUs of the same name; of two that differ, the second one."""
    faults = []
    for gpu in gpus:
        siblings = [other for other in gpus if other.name == gpu.name]
        for name, value in settings[gpu.uuid].items():
            values = Counter(settings[other.uuid][name] for other in siblings if name in settings[other.uuid])
            usual = values.most_common(1)[0][0]
            if value != usual:
                faults.append(
                    GpuFault(gpu.uuid, "different", f"GPU {gpu} has {name} {value}, its siblings have {usual}")
                )
    return faults

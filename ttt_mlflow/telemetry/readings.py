"""The readings of a sample: clocks, power, temperature, utilization, memory, clock events."""

import time
from types import ModuleType
from typing import Any

from ttt_mlflow.telemetry.nvml import Device
from ttt_mlflow.telemetry.query import Query, of_either, of_itself

Row = dict[str, float]  # {column of samples.csv: reading}
NOW = "now"


def sample_queries(nvml: ModuleType, device: Device) -> dict[str, Query[Row]]:
    """The queries of a sample, by name."""

    def clock(column: str, kind: int) -> Any:
        return lambda handle: {column: nvml.nvmlDeviceGetClockInfo(handle, kind)}

    def power(handle: Any) -> Row:
        return {"power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1e3}

    def power_instant(handle: Any) -> Row:
        value = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_POWER_INSTANT])[0]
        if value.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(value.nvmlReturn)
        row: Row = {"power_instant_w": value.value.uiVal / 1e3}  # an unsigned int of mW
        if value.timestamp > 0:  # µs since 1970
            row["power_instant_age_ms"] = time.time_ns() / 1e6 - value.timestamp / 1e3
        return row

    def temperature(handle: Any) -> Row:
        return {"temperature_c": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)}

    def temperature_newer(handle: Any) -> Row:
        return {"temperature_c": nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU)}

    def utilization(handle: Any) -> Row:
        rates = nvml.nvmlDeviceGetUtilizationRates(handle)
        return {"gpu_utilization_pct": rates.gpu, "memory_utilization_pct": rates.memory}

    def memory(handle: Any) -> Row:
        # version 2 excludes memory that the driver reserves for itself, as nvidia-smi does
        return {"memory_used_bytes": nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used}

    def memory_older(handle: Any) -> Row:
        return {"memory_used_bytes": nvml.nvmlDeviceGetMemoryInfo(handle).used}

    def clock_events(handle: Any) -> Row:
        return {"clock_event_reasons": nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)}

    def clock_events_older(handle: Any) -> Row:
        # the only name in older drivers
        return {"clock_event_reasons": nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)}

    either = {
        "sm_clock": (NOW, [clock("sm_clock_mhz", nvml.NVML_CLOCK_SM)]),
        "memory_clock": (NOW, [clock("memory_clock_mhz", nvml.NVML_CLOCK_MEM)]),
        "power": ("the last 1 s; now on GPUs before Ampere and on GA100", [power]),
        "power_instant": ("now, less its age", [power_instant]),
        "temperature": (NOW, [temperature, temperature_newer]),
        "utilization": ("the last 1/6 to 1 s, depending on the GPU", [utilization]),
        "clock_events": (NOW, [clock_events, clock_events_older]),
    }
    queries = {
        name: Query(nvml, name, covers, of_either(device, *functions)) for name, (covers, functions) in either.items()
    }
    return queries | {"memory": Query(nvml, "memory", NOW, of_itself(device, memory, memory_older))}


def memory_total_query(nvml: ModuleType, device: Device) -> Query[int]:
    """The device's memory in bytes."""
    return Query(
        nvml,
        "memory_total",
        "always",
        of_itself(device, lambda handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
    )

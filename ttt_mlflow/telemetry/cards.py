"""What NVML says about a card at one moment, for a person who is about to measure on it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from ttt_mlflow.telemetry.nvml import TelemetryUnavailable, find_device, load_nvml


@dataclass(frozen=True)
class CardProcess:
    """A process that computes on the card. NVML does not tell the memory of one of another container."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True)
class CardState:
    """Readings of one card; None where it does not answer, and ``refused`` then has NVML's words.

    Clocks in MHz, power in W, temperature in °C, utilisation in %. gpm: whether the card gives SM, tensor and
    DRAM-bandwidth utilisation without a profiler.
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
    processes: list[CardProcess] | None
    gpm: bool | None
    refused: dict[str, str] = field(default_factory=dict)


def visible_to_nvml() -> int:
    """How many GPUs NVML knows, whatever PyTorch sees; raise :class:`TelemetryUnavailable`."""
    nvml = load_nvml()
    try:
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError as error:
        raise TelemetryUnavailable(f"NVML does not count the GPUs ({error})", "nvidia-smi -L shows them") from None
    finally:
        nvml.nvmlShutdown()


def read_card(uuid: str) -> CardState:
    """The state of the GPU (or MIG instance) with this UUID; raise :class:`TelemetryUnavailable` without NVML."""
    nvml = load_nvml()
    try:
        handle, full_uuid = find_device(nvml, uuid)
        return _read(nvml, handle, full_uuid)
    except nvml.NVMLError as error:
        raise TelemetryUnavailable(
            f"NVML does not answer for the GPU {uuid} ({error})", "nvidia-smi -L lists the GPUs it knows"
        ) from None
    finally:
        nvml.nvmlShutdown()


def _read(nvml: ModuleType, handle: Any, uuid: str) -> CardState:
    refused: dict[str, str] = {}

    def ask(name: str, query: Callable[[], Any]) -> Any:
        try:
            return query()
        except (nvml.NVMLError, AttributeError) as error:  # AttributeError: this nvidia-ml-py lacks the function
            refused[name] = str(error)
            return None

    def watts(milliwatts: int | None) -> float | None:
        return None if milliwatts is None else milliwatts / 1e3

    driver = nvml.nvmlSystemGetDriverVersion()
    return CardState(
        uuid=uuid,
        driver=driver.decode() if isinstance(driver, bytes) else str(driver),
        sm_clock=ask("sm_clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        sm_clock_max=ask("sm_clock_max", lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
        memory_clock=ask("memory_clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        memory_clock_max=ask("memory_clock_max", lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        power=watts(ask("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))),
        power_limit=watts(ask("power_limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))),
        temperature=ask("temperature", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        utilization=ask("utilization", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        processes=ask("processes", lambda: _processes(nvml, handle)),
        gpm=ask("gpm", lambda: bool(nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)),
        refused=refused,
    )


def _processes(nvml: ModuleType, handle: Any) -> list[CardProcess]:
    return [
        CardProcess(int(process.pid), process.usedGpuMemory)
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    ]

"""Stands for pynvml on a machine without a GPU: one H200 under load, with the names and errors of pynvml."""

import threading
from collections import Counter
from types import ModuleType, SimpleNamespace

GPU_UUID = "GPU-6d3b1f3a-0000-4000-8000-5a5a5a5a5a5a"
MIG_UUID = "MIG-11111111-0000-4000-8000-222222222222"

SUCCESS, NOT_SUPPORTED, NOT_FOUND, DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND, GPU_IS_LOST = 0, 3, 6, 9, 13, 15
MESSAGES = {
    NOT_SUPPORTED: "Not Supported",
    NOT_FOUND: "Not Found",
    DRIVER_NOT_LOADED: "Driver Not Loaded",
    FUNCTION_NOT_FOUND: "Function Not Found",
    GPU_IS_LOST: "GPU is lost",
}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(MESSAGES[value])
        self.value = value


class FakeNvml(ModuleType):
    """The functions that the sampler and the doctor use.

    refuses: {function: error code} that it raises from now on. A field value's code is in ``field_return``.
    calls: how often each function was called. sampled: released once a sample, by its first query.
    """

    NVMLError = NVMLError
    NVML_SUCCESS = SUCCESS
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_FI_DEV_POWER_INSTANT = 186
    nvmlMemory_v2 = 0x02000028

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.refuses: dict[str, int] = {}
        self.field_return = SUCCESS
        self.calls: Counter[str] = Counter()
        self.sampled = threading.Semaphore(0)
        self.open_count = 0
        self.uuids = {GPU_UUID}
        self.sm_clock = 1980
        self.temperature = 41
        self.energy_mj = 5_000_000_000
        self.reasons = 0x4  # software power cap
        self.utilization = 97
        self.processes: list[SimpleNamespace] = []
        self.gpm = 1

    def refuse_everything(self, code: int) -> None:
        """From now on the device answers nothing."""
        for name in [*vars(FakeNvml), "nvmlDeviceGetMemoryInfo_v2"]:
            if name.startswith("nvmlDeviceGet"):
                self.refuses[name] = code

    def _asked(self, function: str) -> None:
        self.calls[function] += 1
        if function in self.refuses:
            raise NVMLError(self.refuses[function])

    def nvmlInit(self) -> None:
        self._asked("nvmlInit")
        self.open_count += 1

    def nvmlShutdown(self) -> None:
        self.open_count -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._asked("nvmlSystemGetDriverVersion")
        return "580.159.04"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        if uuid not in self.uuids:
            raise NVMLError(NOT_FOUND)
        return uuid

    def nvmlDeviceGetClockInfo(self, handle: object, kind: int) -> int:
        self._asked("nvmlDeviceGetClockInfo")
        if kind == self.NVML_CLOCK_SM:
            self.sampled.release()
            return self.sm_clock
        return 3201

    def nvmlDeviceGetCount(self) -> int:
        self._asked("nvmlDeviceGetCount")
        return len(self.uuids)

    def nvmlDeviceGetMaxClockInfo(self, handle: object, kind: int) -> int:
        self._asked("nvmlDeviceGetMaxClockInfo")
        return 1980 if kind == self.NVML_CLOCK_SM else 3201

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: object) -> int:
        self._asked("nvmlDeviceGetEnforcedPowerLimit")
        return 700_000

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[SimpleNamespace]:
        self._asked("nvmlDeviceGetComputeRunningProcesses")
        return self.processes

    def nvmlGpmQueryDeviceSupport(self, handle: object) -> SimpleNamespace:
        self._asked("nvmlGpmQueryDeviceSupport")
        return SimpleNamespace(isSupportedDevice=self.gpm)

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:
        self._asked("nvmlDeviceGetPowerUsage")
        return 500_000

    def nvmlDeviceGetFieldValues(self, handle: object, fields: list[int]) -> list[SimpleNamespace]:
        self._asked("nvmlDeviceGetFieldValues")
        assert fields == [self.NVML_FI_DEV_POWER_INSTANT]
        return [SimpleNamespace(nvmlReturn=self.field_return, value=SimpleNamespace(uiVal=630_250))]

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:
        self._asked("nvmlDeviceGetTemperature")
        return self.temperature

    def nvmlDeviceGetTemperatureV(self, handle: object, sensor: int) -> int:
        self._asked("nvmlDeviceGetTemperatureV")
        return self.temperature

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> SimpleNamespace:
        self._asked("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=self.utilization, memory=60)

    def nvmlDeviceGetMemoryInfo(self, handle: object, version: int | None = None) -> SimpleNamespace:
        self._asked("nvmlDeviceGetMemoryInfo_v2" if version else "nvmlDeviceGetMemoryInfo")
        reserved = 600_000_000  # counted as used by the first version of the call alone
        used = 20_000_000_000
        return SimpleNamespace(total=150_754_820_096, used=used if version else used + reserved)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: object) -> int:
        self._asked("nvmlDeviceGetCurrentClocksEventReasons")
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> int:
        self._asked("nvmlDeviceGetCurrentClocksThrottleReasons")
        return self.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:
        self._asked("nvmlDeviceGetTotalEnergyConsumption")
        return self.energy_mj

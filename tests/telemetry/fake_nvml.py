"""Stands for pynvml on a machine without a GPU: H200s under load, one or more, with the names and errors of pynvml."""

import os
import threading
import time
from collections import Counter
from types import ModuleType, SimpleNamespace

GPU_UUID = "GPU-6d3b1f3a-0000-4000-8000-5a5a5a5a5a5a"
OTHER_UUID = "GPU-0c0ffee0-0000-4000-8000-5b5b5b5b5b5b"
MIG_UUID = "MIG-11111111-0000-4000-8000-222222222222"

SUCCESS, NOT_SUPPORTED, NOT_FOUND, DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND, GPU_IS_LOST = 0, 3, 6, 9, 13, 15
MESSAGES = {
    SUCCESS: "Success",
    NOT_SUPPORTED: "Not Supported",
    NOT_FOUND: "Not Found",
    DRIVER_NOT_LOADED: "Driver Not Loaded",
    FUNCTION_NOT_FOUND: "Function Not Found",
    GPU_IS_LOST: "GPU is lost",
}
# what a MIG instance answers itself; its card answers the rest
OF_AN_INSTANCE = {
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(MESSAGES[value])
        self.value = value


class NVMLLibraryMismatchError(Exception):
    pass


def process(pid: int, memory_bytes: int | None = 3_000_000_000) -> SimpleNamespace:
    """An entry of NVML's lists of processes."""
    return SimpleNamespace(pid=pid, usedGpuMemory=memory_bytes)


def utilization(pid: int, sm: int, time_us: int | None = None) -> SimpleNamespace:
    """NVML's sample of a process's utilisation; of now, if no time is given."""
    return SimpleNamespace(pid=pid, smUtil=sm, timeStamp=time.time_ns() // 1000 if time_us is None else time_us)


class GpmRequest:
    """pynvml's structure of the same fields."""

    def __init__(self) -> None:
        self.version = self.numMetrics = 0
        self.sample1: int | None = None
        self.sample2: int | None = None
        self.metrics = [SimpleNamespace(metricId=0, nvmlReturn=SUCCESS, value=0.0) for _ in range(8)]


class FakeNvml(ModuleType):
    """The functions that the sampler and the doctor use. A device's handle is its UUID.

    uuids: the devices, in NVML's order. refuses: {function: error code} that it raises from now on; a MIG instance
    refuses all but OF_AN_INSTANCE. A field value's code is in ``field_return``, a GPM metric's in ``gpm_returns``.
    calls: how often each function was called. sampled: released once a sample, by its first query.
    gpm_values: {metric: %}; gpm_buffers: those that are allocated.
    """

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError
    NVML_SUCCESS = SUCCESS
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED
    NVML_ERROR_NOT_FOUND = NOT_FOUND
    NVML_ERROR_GPU_IS_LOST = GPU_IS_LOST
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_FI_DEV_POWER_INSTANT = 186
    nvmlMemory_v2 = 0x02000028
    NVML_PERF_POLICY_POWER = 0
    NVML_PERF_POLICY_THERMAL = 1
    NVML_PERF_POLICY_SYNC_BOOST = 2
    NVML_PERF_POLICY_BOARD_LIMIT = 3
    NVML_PERF_POLICY_LOW_UTILIZATION = 4
    NVML_PERF_POLICY_RELIABILITY = 5
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_GPM_METRIC_SM_UTIL = 2
    NVML_GPM_METRIC_ANY_TENSOR_UTIL = 5
    NVML_GPM_METRIC_DRAM_BW_UTIL = 10
    NVML_GPM_METRICS_GET_VERSION = 1
    NVML_AFFINITY_SCOPE_NODE = 0
    c_nvmlGpmMetricsGet_t = GpmRequest

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.refuses: dict[str, int] = {}
        self.field_return = SUCCESS
        self.field_age_us = 20_000
        self.calls: Counter[str] = Counter()
        self.sampled = threading.Semaphore(0)
        self.open_count = 0
        self.uuids = [GPU_UUID]
        self.divided = False  # by MIG
        self.cuda_version = 13010  # that the driver supports, as NVML writes 13.1
        self.sm_clock = 1980
        self.sm_clocks: dict[str, int] = {}  # by UUID, where a device has one of its own
        self.utilizations: dict[str, int] = {}  # likewise
        self.power_limits: dict[str, int] = {}  # likewise, W
        self.users: dict[str, list[SimpleNamespace]] = {}  # likewise, the processes
        self.lost: set[str] = set()  # devices that have fallen off the bus
        self.nodes = [range(4)]  # the cores of each NUMA node
        self.temperature = 41
        self.energy_mj = 5_000_000_000
        self.violation_ns = {policy: 10**9 * policy for policy in range(6)}
        self.ecc_errors = 7
        self.reasons = 0x4  # software power cap
        self.utilization = 97
        self.processes = [process(os.getpid(), 20_000_000_000)]
        self.graphics_processes: list[SimpleNamespace] = []
        self.mps_processes: list[SimpleNamespace] = []
        self.process_utilization: list[SimpleNamespace] = []
        self.no_utilization_code = NOT_FOUND
        self.process_names: dict[int, str] = {}
        self.gpm = 1
        self.gpm_values = {2: 99.5, 5: 66.5, 10: 74.25}
        self.gpm_returns: dict[int, int] = {}
        self.gpm_buffers: list[int] = []
        self.gpm_taken: list[tuple[object, int]] = []  # whose sample, into which buffer

    def wait_for_samples(self, count: int = 1) -> None:
        """Until ``count`` samples have begun from now on, by a sampler's thread."""
        while self.sampled.acquire(blocking=False):
            pass
        for _ in range(count):
            assert self.sampled.acquire(timeout=30), "the sampler takes no samples"

    def refuse_everything(self, code: int) -> None:
        """From now on the device answers nothing."""
        for name in [*vars(FakeNvml), "nvmlDeviceGetMemoryInfo_v2"]:
            if name.startswith(("nvmlDeviceGet", "nvmlGpm")) and name != "nvmlGpmSampleFree":
                self.refuses[name] = code

    def _asked(self, function: str, handle: object = None) -> None:
        self.calls[function] += 1
        if function in self.refuses:
            raise NVMLError(self.refuses[function])
        if handle in self.lost:
            raise NVMLError(GPU_IS_LOST)
        if str(handle).startswith("MIG-") and function not in OF_AN_INSTANCE:
            raise NVMLError(NOT_SUPPORTED)

    def nvmlInit(self) -> None:
        self._asked("nvmlInit")
        self.open_count += 1

    def nvmlShutdown(self) -> None:
        self.open_count -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._asked("nvmlSystemGetDriverVersion")
        return "580.159.04"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        self._asked("nvmlSystemGetCudaDriverVersion_v2")
        return self.cuda_version

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        self._asked("nvmlSystemGetProcessName")
        if pid not in self.process_names:
            raise NVMLError(NOT_FOUND)
        return self.process_names[pid]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        if uuid not in self.uuids:
            raise NVMLError(NOT_FOUND)
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: object) -> object:
        self._asked("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
        return GPU_UUID

    def nvmlDeviceGetGpuInstanceId(self, handle: object) -> int:
        self._asked("nvmlDeviceGetGpuInstanceId", handle)
        return 9

    def nvmlDeviceGetClockInfo(self, handle: object, kind: int) -> int:
        self._asked("nvmlDeviceGetClockInfo", handle)
        if kind == self.NVML_CLOCK_SM:
            self.sampled.release()
            return self.sm_clocks.get(str(handle), self.sm_clock)
        return 3201

    @property
    def gpus(self) -> list[str]:
        """The devices that are no MIG instances: those that NVML numbers."""
        return [uuid for uuid in self.uuids if not uuid.startswith("MIG-")]

    def nvmlDeviceGetCount(self) -> int:
        self._asked("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        self._asked("nvmlDeviceGetHandleByIndex", self.gpus[index])
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: object) -> str:
        self._asked("nvmlDeviceGetUUID")
        return str(handle)

    def nvmlDeviceGetCpuAffinity(self, handle: object, words: int) -> list[int]:
        """As pynvml: words of 64 cores, of the node of the device."""
        self._asked("nvmlDeviceGetCpuAffinity", handle)
        cores = self.nodes[self.node_of(handle)]
        mask = sum(1 << core for core in cores)
        return [mask >> 64 * word & (1 << 64) - 1 for word in range(words)]

    def nvmlDeviceGetMemoryAffinity(self, handle: object, words: int, scope: int) -> list[int]:
        self._asked("nvmlDeviceGetMemoryAffinity", handle)
        assert scope == self.NVML_AFFINITY_SCOPE_NODE
        return [1 << self.node_of(handle)] + [0] * (words - 1)

    def nvmlDeviceGetPciInfo(self, handle: object) -> SimpleNamespace:
        self._asked("nvmlDeviceGetPciInfo", handle)
        return SimpleNamespace(busId=f"00000000:{self.gpus.index(str(handle)) + 0x1B:02X}:00.0")

    def node_of(self, handle: object) -> int:
        """The NUMA node: the first half of the devices on the first, and so on."""
        return self.gpus.index(str(handle)) * len(self.nodes) // len(self.gpus)

    def nvmlDeviceGetMaxClockInfo(self, handle: object, kind: int) -> int:
        self._asked("nvmlDeviceGetMaxClockInfo", handle)
        return 1980 if kind == self.NVML_CLOCK_SM else 3201

    def nvmlDeviceGetPowerManagementLimit(self, handle: object) -> int:
        self._asked("nvmlDeviceGetPowerManagementLimit", handle)
        return 1000 * self.power_limits.get(str(handle), 700)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: object) -> int:
        self._asked("nvmlDeviceGetEnforcedPowerLimit", handle)
        return 1000 * self.power_limits.get(str(handle), 700)

    def nvmlDeviceGetEccMode(self, handle: object) -> list[int]:
        self._asked("nvmlDeviceGetEccMode", handle)
        return [1, 1]

    def nvmlDeviceGetMigMode(self, handle: object) -> list[int]:
        self._asked("nvmlDeviceGetMigMode", handle)
        return [int(self.divided), int(self.divided)]

    def nvmlDeviceGetPersistenceMode(self, handle: object) -> int:
        self._asked("nvmlDeviceGetPersistenceMode", handle)
        return 1

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle: object) -> int:
        self._asked("nvmlDeviceGetCurrPcieLinkGeneration", handle)
        return 5

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: object) -> int:
        self._asked("nvmlDeviceGetCurrPcieLinkWidth", handle)
        return 16

    def nvmlDeviceGetVbiosVersion(self, handle: object) -> str:
        self._asked("nvmlDeviceGetVbiosVersion", handle)
        return "96.00.B0.00.01"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[SimpleNamespace]:
        self._asked("nvmlDeviceGetComputeRunningProcesses", handle)
        return self.users.get(str(handle), self.processes)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: object) -> list[SimpleNamespace]:
        self._asked("nvmlDeviceGetGraphicsRunningProcesses", handle)
        return self.graphics_processes

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: object) -> list[SimpleNamespace]:
        self._asked("nvmlDeviceGetMPSComputeRunningProcesses", handle)
        return self.mps_processes

    def nvmlDeviceGetProcessUtilization(self, handle: object, since_us: int) -> list[SimpleNamespace]:
        self._asked("nvmlDeviceGetProcessUtilization", handle)
        newer = [sample for sample in self.process_utilization if sample.timeStamp > since_us]
        if not newer:
            raise NVMLError(self.no_utilization_code)
        return newer

    def nvmlDeviceGetViolationStatus(self, handle: object, policy: int) -> SimpleNamespace:
        self._asked("nvmlDeviceGetViolationStatus", handle)
        if policy not in self.violation_ns:
            raise NVMLError(NOT_SUPPORTED)
        return SimpleNamespace(referenceTime=0, violationTime=self.violation_ns[policy])

    def nvmlDeviceGetTotalEccErrors(self, handle: object, kind: int, since: int) -> int:
        self._asked("nvmlDeviceGetTotalEccErrors", handle)
        assert (kind, since) == (self.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, self.NVML_VOLATILE_ECC)
        return self.ecc_errors

    def nvmlGpmQueryDeviceSupport(self, handle: object) -> SimpleNamespace:
        self._asked("nvmlGpmQueryDeviceSupport", handle)
        return SimpleNamespace(isSupportedDevice=self.gpm)

    def nvmlGpmSampleAlloc(self) -> int:
        self._asked("nvmlGpmSampleAlloc")
        self.gpm_buffers.append(max(self.gpm_buffers, default=0) + 1)
        return self.gpm_buffers[-1]

    def nvmlGpmSampleFree(self, buffer: int) -> None:
        assert self.open_count > 0, "NVML was shut down before"
        self.gpm_buffers.remove(buffer)

    def nvmlGpmSampleGet(self, handle: object, buffer: int) -> int:
        self._asked("nvmlGpmSampleGet", handle)
        self.gpm_taken.append((handle, buffer))
        return buffer

    def nvmlGpmMigSampleGet(self, handle: object, instance_id: int, buffer: int) -> int:
        self._asked("nvmlGpmMigSampleGet", handle)
        self.gpm_taken.append(((handle, instance_id), buffer))
        return buffer

    def nvmlGpmMetricsGet(self, request: GpmRequest) -> GpmRequest:
        """Of the two samples taken last, the older one first."""
        self._asked("nvmlGpmMetricsGet")
        assert request.version == self.NVML_GPM_METRICS_GET_VERSION
        assert [request.sample1, request.sample2] == [buffer for _, buffer in self.gpm_taken[-2:]]
        for metric in request.metrics[: request.numMetrics]:
            metric.nvmlReturn = self.gpm_returns.get(metric.metricId, SUCCESS)
            metric.value = self.gpm_values[metric.metricId]
        return request

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:
        self._asked("nvmlDeviceGetPowerUsage", handle)
        return 500_000

    def nvmlDeviceGetFieldValues(self, handle: object, fields: list[int]) -> list[SimpleNamespace]:
        self._asked("nvmlDeviceGetFieldValues", handle)
        assert fields == [self.NVML_FI_DEV_POWER_INSTANT]
        read_us = time.time_ns() // 1000 - self.field_age_us
        value = SimpleNamespace(uiVal=630_250)
        return [SimpleNamespace(nvmlReturn=self.field_return, timestamp=read_us, value=value)]

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:
        self._asked("nvmlDeviceGetTemperature", handle)
        return self.temperature

    def nvmlDeviceGetTemperatureV(self, handle: object, sensor: int) -> int:
        self._asked("nvmlDeviceGetTemperatureV", handle)
        return self.temperature

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> SimpleNamespace:
        self._asked("nvmlDeviceGetUtilizationRates", handle)
        return SimpleNamespace(gpu=self.utilizations.get(str(handle), self.utilization), memory=60)

    def nvmlDeviceGetMemoryInfo(self, handle: object, version: int | None = None) -> SimpleNamespace:
        self._asked("nvmlDeviceGetMemoryInfo_v2" if version else "nvmlDeviceGetMemoryInfo", handle)
        reserved = 600_000_000  # counted as used by the first version of the call alone
        used = 20_000_000_000
        return SimpleNamespace(total=150_754_820_096, used=used if version else used + reserved)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: object) -> int:
        self._asked("nvmlDeviceGetCurrentClocksEventReasons", handle)
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> int:
        self._asked("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return self.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:
        self._asked("nvmlDeviceGetTotalEnergyConsumption", handle)
        return self.energy_mj

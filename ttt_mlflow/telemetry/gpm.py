"""SM, tensor core and DRAM bandwidth utilization from GPM, NVML's performance counters that need no profiler.

GPM reports the activity between two samples of its counters. NVML refreshes these counters every 100 ms, so two samples
must be further apart than that. At 20 samples per second, every third row has GPM readings.
"""

import math
import time
from types import ModuleType
from typing import Any

from ttt_mlflow.telemetry.nvml import Device
from ttt_mlflow.telemetry.query import Query
from ttt_mlflow.telemetry.readings import Row

LEAST_SPAN_S = 0.11
METRICS = {
    "sm_active_pct": "NVML_GPM_METRIC_SM_UTIL",
    "tensor_active_pct": "NVML_GPM_METRIC_ANY_TENSOR_UTIL",
    "dram_bandwidth_pct": "NVML_GPM_METRIC_DRAM_BW_UTIL",
}


class GpmReader:
    """Reads GPM from one thread, until :meth:`close`.

    query: its cost, and why it is refused on a GPU without GPM.
    refused: {gpm_<column>: reason} of single metrics.
    """

    def __init__(self, nvml: ModuleType, device: Device) -> None:
        self._nvml, self._device = nvml, device
        self._buffers: list[Any] = []  # two NVML buffers, for the previous and the current sample
        self._request: Any = None
        self._instance_id: int | None = None  # of a MIG instance
        self._columns = list(METRICS)
        self._taken_s: float | None = None
        self.refused: dict[str, str] = {}
        self.query = Query(nvml, "gpm", "since the previous GPM reading", [(device.own_name, self._read)])

    def read(self) -> Row:
        """The percentages, and ``gpm_span_ms``, the time span that they cover. Empty until the span is long enough."""
        if self._taken_s is None or time.monotonic() - self._taken_s < LEAST_SPAN_S:
            return {}
        return self.query.ask() or {}

    def close(self) -> None:
        """Free NVML's buffers. Must be called before NVML is shut down."""
        while self._buffers:
            self._nvml.nvmlGpmSampleFree(self._buffers.pop())

    def _read(self) -> Row:
        """Take a sample. The first sample only starts the first span."""
        if self._taken_s is None:
            self._prepare()
            self._take(self._buffers[0])
            self._taken_s = time.monotonic()
            return {}
        taken_s = time.monotonic()
        before, after = self._buffers
        self._take(after)
        row = self._between(before, after)
        self._buffers.reverse()
        row["gpm_span_ms"] = 1e3 * (taken_s - self._taken_s)
        self._taken_s = taken_s
        return row

    def _prepare(self) -> None:
        nvml, device = self._nvml, self._device
        gpu = device.handle if device.parent is None else device.parent
        if not nvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        if device.parent is not None:
            self._instance_id = nvml.nvmlDeviceGetGpuInstanceId(device.handle)
        for _ in range(2):
            self._buffers.append(nvml.nvmlGpmSampleAlloc())
        self._request = nvml.c_nvmlGpmMetricsGet_t()
        self._request.version = nvml.NVML_GPM_METRICS_GET_VERSION

    def _take(self, buffer: Any) -> None:
        if self._instance_id is None:
            self._nvml.nvmlGpmSampleGet(self._device.handle, buffer)
        else:  # an instance's counters are read through its GPU
            self._nvml.nvmlGpmMigSampleGet(self._device.parent, self._instance_id, buffer)

    def _between(self, before: Any, after: Any) -> Row:
        """The metrics of the span. A metric that is refused is not queried again."""
        nvml, request = self._nvml, self._request
        request.sample1, request.sample2, request.numMetrics = before, after, len(self._columns)
        for index, column in enumerate(self._columns):
            request.metrics[index].metricId = getattr(nvml, METRICS[column])
        nvml.nvmlGpmMetricsGet(request)
        row: Row = {}
        for index, column in enumerate(list(self._columns)):
            metric = request.metrics[index]
            if metric.nvmlReturn != nvml.NVML_SUCCESS:
                self._columns.remove(column)
                self.refused[f"gpm_{column}"] = str(nvml.NVMLError(metric.nvmlReturn))
            elif math.isfinite(metric.value):
                row[column] = float(metric.value)
        if not self._columns:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        return row

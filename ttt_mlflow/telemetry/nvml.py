"""What NVML says about the GPU while it works: clocks, power, temperature, utilisation, memory, clock events.

A thread reads one device, chosen by UUID, into rows with timestamps, and the measurement marks its sections.
A query that the card refuses is asked once and listed with its reason. What the samples mean is in
:mod:`ttt_mlflow.telemetry.samples`.
"""

import importlib
import threading
import time
from collections.abc import Callable
from itertools import takewhile
from types import ModuleType, TracebackType
from typing import Any, Self

import pandas as pd

from ttt_mlflow.errors import TTTError
from ttt_mlflow.telemetry.samples import Section, inside

SAMPLES_PER_SECOND = 20.0
STOP_SECONDS = 5.0  # to wait for the thread: a lost GPU can hold a call for ever


class TelemetryUnavailable(TTTError):
    """NVML cannot be used: one line that says what is not recorded, why, and how to get it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(
            f"GPU clocks, power, temperature, utilisation, energy and memory in use are not recorded: "
            f"{reason}; {remedy}"
        )


class NvmlSampler:
    """Samples one GPU from a daemon thread between :meth:`start` and :meth:`stop`.

    samples: one dict a sample (see :meth:`frame`).
    sections: the measured sections, marked by :meth:`mark`.
    refused: {query: reason} of what the card does not answer, or stopped answering.
    memory_total_bytes: the device's memory; None where the card does not say.
    """

    def __init__(self, nvml: ModuleType, handle: Any, uuid: str, hz: float) -> None:
        self.uuid = uuid  # as NVML names it: GPU-… or MIG-…
        self.hz = hz
        self.samples: list[dict[str, float]] = []
        self.sections: list[Section] = []
        self.refused: dict[str, str] = {}
        self._nvml = nvml
        self._handle = handle
        self._queries = self._answered_queries()
        self.memory_total_bytes = self._memory_total_bytes()
        self._energy_works = True
        self._open_section: tuple[int, float | None] | None = None
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    @classmethod
    def open(cls, uuid: str, hz: float = SAMPLES_PER_SECOND) -> Self:
        """A sampler for the GPU (or MIG instance) with this UUID, in PyTorch's or in NVML's spelling.

        Raises :class:`TelemetryUnavailable` if nvidia-ml-py or NVML is missing or does not know the device.
        """
        nvml = load_nvml()
        try:
            handle, full_uuid = find_device(nvml, uuid)
            return cls(nvml, handle, full_uuid, hz)
        except nvml.NVMLError as error:
            nvml.nvmlShutdown()
            raise TelemetryUnavailable(
                f"NVML does not answer for the GPU {uuid} ({error})", "nvidia-smi -L lists the GPUs it knows"
            ) from None

    def start(self) -> Self:
        self._thread = threading.Thread(target=self._sample_until_stopped, name="nvml-sampler", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the sampling and let go of NVML; the samples stay. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._open_section = None  # its pass did not end
        self._ending.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
            if self._thread.is_alive():
                self.refused["sampling"] = f"a call to NVML did not return within {STOP_SECONDS:g} s"
                return
        self._nvml.nvmlShutdown()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def mark(self, edge: str) -> None:
        """Mark the "begin" or the "end" of a measured section.

        The energy counter is read here, just outside the section: one reading takes milliseconds.
        """
        if edge == "begin" and self._open_section is None:
            energy = self._read_energy()
            self._open_section = (time.time_ns(), energy)
        elif edge == "end" and self._open_section is not None:
            end_ns = time.time_ns()
            (begin_ns, before), self._open_section = self._open_section, None
            after = self._read_energy()
            energy = after - before if before is not None and after is not None else None
            self.sections.append(Section(begin_ns, end_ns, energy))
        else:
            raise ValueError(f"mark({edge!r}) out of turn: sections begin and end one after the other")

    def forget_sections(self) -> None:
        """Begin anew: what was measured until now does not count, its samples stay."""
        self.sections.clear()

    def recent_sm_clocks(self, seconds: float) -> list[float] | None:
        """The SM clock (MHz) of the samples of the last ``seconds``, oldest first; None where the card does not say."""
        if "sm_clock" not in self._queries:
            return None
        since_ns = time.time_ns() - int(seconds * 1e9)
        recent = takewhile(lambda row: row["time_ns"] >= since_ns, reversed(self.samples))
        return [row["sm_clock_mhz"] for row in recent if "sm_clock_mhz" in row][::-1]

    def frame(self) -> pd.DataFrame:
        """The samples so far, a row each; empty without samples.

        time_ns (the host's clock, time.time_ns), read_ms (what reading the row took), measured (whether it
        was inside a section), and where the card answers: sm_clock_mhz, memory_clock_mhz, power_w (NVML's own
        average), power_instant_w, temperature_c, gpu_utilization_pct, memory_utilization_pct,
        memory_used_bytes, clock_event_reasons (a mask: bit i is names.CLOCK_EVENT_REASONS[i]). What the card
        stopped giving is NaN from then on.
        """
        frame = pd.DataFrame(list(self.samples))
        if not frame.empty:
            frame["measured"] = inside(frame, self.sections)
        return frame

    def _answered_queries(self) -> dict[str, Callable[[], dict[str, float]]]:
        """The queries that this card answers, each asked once here; the others go to ``refused``."""
        answered = {}
        for name, spellings in _queries(self._nvml, self._handle).items():
            for query in spellings:
                try:
                    query()
                except (self._nvml.NVMLError, AttributeError) as error:
                    # AttributeError: this nvidia-ml-py does not have the function
                    self.refused[name] = str(error)
                else:
                    answered[name] = query
                    self.refused.pop(name, None)
                    break
        return answered

    def _sample_until_stopped(self) -> None:
        due = time.monotonic()
        while not self._ending.wait(max(0.0, due - time.monotonic())):
            self._sample()
            # keep the rhythm; after a delay go on from now instead of catching up
            due = max(due + 1 / self.hz, time.monotonic())

    def _sample(self) -> None:
        row: dict[str, float] = {}
        time_ns, began = time.time_ns(), time.perf_counter()
        for name, query in list(self._queries.items()):
            try:
                row.update(query())
            except self._nvml.NVMLError as error:
                del self._queries[name]
                self.refused[name] = f"stopped answering after {len(self.samples)} samples: {error}"
        if row:
            self.samples.append({"time_ns": time_ns, "read_ms": 1e3 * (time.perf_counter() - began)} | row)

    def _memory_total_bytes(self) -> int | None:
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total)
        except self._nvml.NVMLError as error:
            self.refused["memory_total"] = str(error)
            return None

    def _read_energy(self) -> float | None:
        """The energy counter in joules; None where there is none."""
        if not self._energy_works:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            self._energy_works = False
            self.refused["energy"] = str(error)
            return None


def driver_version() -> str | None:
    """The NVIDIA driver's version; None where NVML cannot say."""
    try:
        nvml = load_nvml()
    except TelemetryUnavailable:
        return None
    try:
        version = nvml.nvmlSystemGetDriverVersion()
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
    return version.decode() if isinstance(version, bytes) else str(version)


def load_nvml() -> ModuleType:
    """The pynvml module, initialised; the caller shuts it down."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        raise TelemetryUnavailable("nvidia-ml-py is not installed", "pip install nvidia-ml-py") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise TelemetryUnavailable(
            f"NVML does not start ({error})",
            "it comes with the NVIDIA driver; nvidia-smi shows whether that works",
        ) from None
    return nvml


def find_device(nvml: ModuleType, uuid: str) -> tuple[Any, str]:
    """The device's handle and its UUID in NVML's spelling; PyTorch leaves out the prefix, GPU- or MIG-."""
    if uuid.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(uuid), uuid
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"), f"GPU-{uuid}"
    except nvml.NVMLError:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}"), f"MIG-{uuid}"
        except nvml.NVMLError:
            pass  # the first error says more
        raise


def _queries(nvml: ModuleType, handle: Any) -> dict[str, list[Callable[[], dict[str, float]]]]:
    """The queries of a sample: {name: its spellings, the preferred one first}, giving {column: reading}."""

    def clock(column: str, kind: str) -> dict[str, float]:
        return {column: nvml.nvmlDeviceGetClockInfo(handle, getattr(nvml, kind))}

    def memory(**version: int) -> dict[str, float]:
        return {"memory_used_bytes": nvml.nvmlDeviceGetMemoryInfo(handle, **version).used}

    def utilization() -> dict[str, float]:
        rates = nvml.nvmlDeviceGetUtilizationRates(handle)
        return {"gpu_utilization_pct": rates.gpu, "memory_utilization_pct": rates.memory}

    def power_instant() -> dict[str, float]:
        value = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_POWER_INSTANT])[0]
        if value.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(value.nvmlReturn)
        return {"power_instant_w": value.value.uiVal / 1e3}  # an unsigned int of mW

    return {
        "sm_clock": [lambda: clock("sm_clock_mhz", "NVML_CLOCK_SM")],
        "memory_clock": [lambda: clock("memory_clock_mhz", "NVML_CLOCK_MEM")],
        "power": [lambda: {"power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1e3}],
        "power_instant": [power_instant],
        "temperature": [
            lambda: {"temperature_c": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)},
            lambda: {"temperature_c": nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU)},
        ],
        "utilization": [utilization],
        # version 2 leaves out what the driver reserves for itself, as nvidia-smi does
        "memory": [
            lambda: memory(version=nvml.nvmlMemory_v2),
            memory,
        ],
        # the second is the old name, which older drivers know alone
        "clock_events": [
            lambda: {"clock_event_reasons": nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)},
            lambda: {"clock_event_reasons": nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)},
        ],
    }

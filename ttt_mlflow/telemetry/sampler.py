"""Samples a GPU with NVML while it works. A thread reads one device, and the measurement marks its sections.

The device is selected by UUID. A query that the GPU refuses is made once and listed with its reason.
:mod:`ttt_mlflow.telemetry.samples` evaluates the samples.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from types import ModuleType, TracebackType
from typing import Any, Self

import pandas as pd

from ttt_mlflow.names import VIOLATION_POLICIES
from ttt_mlflow.telemetry.clock import SteadyClock
from ttt_mlflow.telemetry.counters import ECC, ENERGY, SectionCounters, violation_query
from ttt_mlflow.telemetry.gpm import GpmReader
from ttt_mlflow.telemetry.neighbors import NeighborWatch
from ttt_mlflow.telemetry.nvml import Device, TelemetryUnavailable, find_device, load_nvml
from ttt_mlflow.telemetry.processes import GpuProcess, ProcessWatch
from ttt_mlflow.telemetry.query import Query
from ttt_mlflow.telemetry.readings import Row, memory_total_query, sample_queries
from ttt_mlflow.telemetry.samples import Section, inside

SAMPLES_PER_SECOND = 20.0
LOOKS_PER_SECOND = 2.0  # reads of the processes on the GPU, and of the host's other GPUs
log = logging.getLogger(__name__)
STOP_SECONDS = 5.0  # time to wait for the thread; a lost GPU can block a call forever


class NvmlSampler:
    """Samples one GPU from a daemon thread between :meth:`start` and :meth:`stop`.

    samples: one dict for each sample (see :meth:`frame`).
    sections: the measured sections, marked by :meth:`mark`.
    clock: that of samples and sections.
    memory_total_bytes: the device's memory; None if the GPU does not report it.
    """

    def __init__(self, nvml: ModuleType, device: Device, hz: float) -> None:
        self.uuid = device.uuid
        self.hz = hz
        self.clock = SteadyClock()
        self.samples: list[Row] = []
        self.sections: list[Section] = []
        self._nvml = nvml
        self._readings = sample_queries(nvml, device)
        self._gpm = GpmReader(nvml, device)
        self._counters = SectionCounters(nvml, device)
        self._processes = ProcessWatch(nvml, device, self.clock)
        self._neighbors = NeighborWatch(nvml, device)
        self._memory_total = memory_total_query(nvml, device)
        self.memory_total_bytes = self._memory_total.ask()
        self._open_section: tuple[int, dict[str, float]] | None = None
        self._stopping = threading.Event()
        self._ended: str | None = None  # why there are no samples any more
        self._thread: threading.Thread | None = None
        self._closed = False

    @classmethod
    def open(cls, uuid: str, hz: float = SAMPLES_PER_SECOND) -> Self:
        """A sampler for the GPU (or MIG instance) with this UUID, in PyTorch's or NVML's spelling.

        Raises :class:`TelemetryUnavailable` if nvidia-ml-py or NVML is missing or does not know the device.
        """
        nvml = load_nvml()
        try:
            return cls(nvml, find_device(nvml, uuid), hz)
        except TelemetryUnavailable:
            nvml.nvmlShutdown()
            raise
        except nvml.NVMLError as error:
            nvml.nvmlShutdown()
            raise TelemetryUnavailable(
                f"NVML does not answer for the GPU {uuid} ({error})", "run nvidia-smi -L to list the GPUs that it knows"
            ) from None

    def start(self) -> Self:
        self._thread = threading.Thread(target=self._sample_until_stopped, name="nvml-sampler", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop sampling and release NVML. The samples are kept. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._open_section = None  # its pass was interrupted
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
            if self._thread.is_alive():
                self._ended = f"a call to NVML did not return within {STOP_SECONDS:g} s"
                return
        self._gpm.close()
        self._nvml.nvmlShutdown()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def mark(self, edge: str) -> None:
        """Mark the "begin" or the "end" of a measured section.

        Counters and processes are read here, just outside the section, because that takes milliseconds.
        """
        if edge == "begin" and self._open_section is None:
            self._processes.look(in_section=True)
            counted = self._counters.at_begin()
            self._open_section = (self.clock.now_ns(), counted)
        elif edge == "end" and self._open_section is not None:
            end_ns = self.clock.now_ns()
            (begin_ns, before), self._open_section = self._open_section, None
            counted = self._counters.between(before, self._counters.at_end())
            self._processes.look(in_section=True)
            self.sections.append(_section(begin_ns, end_ns, counted))
        else:
            raise ValueError(f"mark({edge!r}) is out of order: sections must begin and end in turn")

    @property
    def refused(self) -> dict[str, str]:
        """{query: reason} of queries that the GPU does not answer, stopped answering, or answers uselessly."""
        refused = {query.name: query.refused for query in self._queries if query.refused is not None}
        refused |= self._gpm.refused | self._counters.backwards | self._neighbors.refused
        if problem := self._processes.problem():
            refused.setdefault("processes", problem)
        return refused | ({"sampling": self._ended} if self._ended else {})

    def forget_sections(self) -> None:
        """Discard the sections so far. The samples are kept."""
        self.sections.clear()
        self._processes.forget_sections()

    def other_processes(self, sections: Sequence[Section] | None = None) -> list[GpuProcess] | None:
        """The processes on the GPU while a section was open, without this process and those that it started.

        Their utilization is that in ``sections`` (default: all). None if the GPU does not list the processes, or lists
        them in such a way that this process cannot be identified; ``refused`` then has the reason under ``processes``.
        Also None without a section.
        """
        return self._processes.others(self.sections if sections is None else sections)

    def recent_sm_clocks(self, seconds: float) -> list[float] | None:
        """The SM clock (MHz) of the samples of the last ``seconds``, the oldest first; None if not reported."""
        if self._readings["sm_clock"].refused is not None:
            return None
        since_ns = self.clock.now_ns() - int(seconds * 1e9)
        recent = takewhile(lambda row: row["time_ns"] >= since_ns, reversed(self.samples))
        return [row["sm_clock_mhz"] for row in recent if "sm_clock_mhz" in row][::-1]

    def frame(self) -> pd.DataFrame:
        """The samples so far, one row each; empty without samples.

        time_ns (on :attr:`clock`), read_ms (the time for reading the row), measured (whether it was in a
        section) and, if the GPU reports them: sm_clock_mhz, memory_clock_mhz, power_w (NVML's average, on most GPUs of
        the last second), power_instant_w, power_instant_age_ms (from NVML's timestamp), temperature_c,
        gpu_utilization_pct, memory_utilization_pct, memory_used_bytes, clock_event_reasons (a mask: bit i is
        names.CLOCK_EVENT_REASONS[i]), and about every 150 ms sm_active_pct, tensor_active_pct, dram_bandwidth_pct and
        gpm_span_ms, the time before the row that these three cover. Twice a second, on a host with several GPUs:
        neighbor_gpus_busy and neighbor_power_w. A reading that the GPU no longer provides is NaN from then on.
        """
        frame = pd.DataFrame(list(self.samples))
        if not frame.empty:
            frame["measured"] = inside(frame, self.sections)
        return frame

    def neighbors(self) -> pd.DataFrame:
        """The host's other GPUs in the sections (:meth:`NeighborWatch.frame`); empty if there are none."""
        return self._neighbors.frame(self.sections)

    def queries(self) -> pd.DataFrame:
        """One row for each query: what it covers, the age and cost of its answers, or why it is refused.

        query, of (GPU, instance or parent GPU), calls, mean_us, max_us, age_ms (mean, if NVML reports a time), covers,
        refused.
        """
        rows = [query.row() for query in self._queries]
        rows += [{"query": name, "calls": 0, "refused": reason} for name, reason in self._gpm.refused.items()]
        table = pd.DataFrame(rows)
        reasons = self.refused
        table["refused"] = table["query"].map(reasons)
        samples = self.frame()
        ages = {name: samples[f"{name}_age_ms"].mean() for name in table["query"] if f"{name}_age_ms" in samples}
        table.insert(5, "age_ms", table["query"].map(ages))
        return table

    @property
    def _queries(self) -> list[Query[Any]]:
        return [
            *self._readings.values(),
            self._gpm.query,
            *self._counters.queries,
            *self._processes.queries,
            *self._neighbors.queries,
            self._memory_total,
        ]

    def _sample_until_stopped(self) -> None:
        try:
            self._sample_in_rhythm()
        except Exception as error:  # whatever it is: the measurement goes on, and the end of the samples is told
            log.exception("sampling has ended")
            self._ended = f"it ended after {len(self.samples)} samples ({type(error).__name__}: {error})"

    def _sample_in_rhythm(self) -> None:
        due = look_due = time.monotonic()
        pauses = uneven(self.hz)
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            looks = time.monotonic() >= look_due
            self._sample(looks)
            if looks:
                self._processes.look(in_section=self._open_section is not None)
                look_due = time.monotonic() + 1 / LOOKS_PER_SECOND
            # after a delay, continue from now instead of catching up
            due = max(due + next(pauses), time.monotonic())

    def _sample(self, with_neighbors: bool = False) -> None:
        time_ns, began = self.clock.now_ns(), time.perf_counter()
        row = self._gpm.read()  # first, so that its span ends at the row's time
        for query in self._readings.values():
            row |= query.ask() or {}
        if with_neighbors:
            row |= self._neighbors.look(time_ns)
        if row:
            self.samples.append({"time_ns": time_ns, "read_ms": 1e3 * (time.perf_counter() - began)} | row)


def uneven(hz: float) -> Iterator[float]:
    """Seconds from sample to sample: 1 / ``hz`` in the mean, between half and one and a half of that.

    Even ones can be in step with the passes: with a pass every 50 ms, 20 samples a second can all fall between passes.
    """
    draw = random.Random(0)
    while True:
        yield draw.uniform(0.5, 1.5) / hz


def _section(begin_ns: int, end_ns: int, counted: dict[str, float]) -> Section:
    violation_s = {
        policy: counted[violation_query(policy)] for policy in VIOLATION_POLICIES if violation_query(policy) in counted
    }
    return Section(
        begin_ns,
        end_ns,
        energy_j=counted.get(ENERGY),
        violation_s=violation_s,
        ecc_uncorrected_errors=int(counted[ECC]) if ECC in counted else None,
    )

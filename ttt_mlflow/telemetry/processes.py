"""Other processes on the GPU: the processes that NVML lists, without those of this run.

NVML lists the pids of its own namespace. If that is this process's namespace, this process's pid is in the list, and
the others follow. In a container, the namespaces can differ. This process is then listed under a pid that it does not
know, or not at all. :func:`own_number` describes how it is identified and when that is impossible.

Only program names are recorded. Arguments and environment variables are never read, because they can contain secrets.
"""

import os
import re
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

import pandas as pd
import psutil

from ttt_mlflow.telemetry.clock import SteadyClock
from ttt_mlflow.telemetry.context import holds_context
from ttt_mlflow.telemetry.nvml import Device, refusals, text
from ttt_mlflow.telemetry.query import Query, of_itself
from ttt_mlflow.telemetry.samples import Section

TURN_SECONDS = 1.0  # time to wait while the other thread reads the processes
AHEAD_US = 1_000_000  # how far a time of NVML may be ahead of the host's clock
NOT_VISIBLE = "NVML lists no process although this one computes: processes are not visible from this container"
NOT_TOLD_APART = (
    "NVML lists {count} with pids of another namespace than this container's, and which one is this process "
    "is not known"
)
Listed = dict[int, int | None]  # {pid: bytes of GPU memory; None if NVML does not report them}

# {(pid, UUID): the pid under which NVML lists this process}, found by an earlier run in this process.
# The key has the pid because a forked process inherits its parent's entries.
_own_numbers: dict[tuple[int, str], int] = {}


@dataclass(frozen=True)
class GpuProcess:
    """A process on the GPU.

    pid: as NVML reports it. name: of the program, if the pid belongs to this namespace.
    sm_utilization_pct: maximum while a section was open; 0.0: it did not compute; None: the GPU does not report it.
    """

    pid: int
    name: str | None
    memory_bytes: int | None
    sm_utilization_pct: float | None


@dataclass(frozen=True)
class Look:
    """NVML's list at one moment. context: whether this process had a CUDA context then; None if unknown."""

    listed: Listed
    context: bool | None
    in_section: bool


def own_number(looks: Sequence[Look], pid: int, known: int | None = None) -> int | None:
    """The pid under which NVML lists this process in the sections; None if it cannot be determined.

    The result is ``pid`` if it is listed. Otherwise it is ``known``, from an earlier run in this process. Otherwise it
    is the only pid that was listed whenever this process had a context, and not in the first list if there was no
    context then.
    """
    seen = memory_by_number(look.listed for look in looks if look.in_section)
    for number in (pid, known):
        if number in seen:
            return number
    candidates = set(seen)
    for look in looks:
        if look.in_section or look.context:
            candidates &= look.listed.keys()
    # only the first list counts: while a context is being created, NVML may list the process before CUDA reports it
    if looks and looks[0].context is False:
        candidates -= looks[0].listed.keys()
    return candidates.pop() if len(candidates) == 1 else None


def memory_by_number(lists: Iterable[Listed]) -> Listed:
    """All listed processes, each with its maximum memory."""
    merged: Listed = {}
    for listed in lists:
        for number, memory in listed.items():
            merged[number] = max((value for value in (memory, merged.get(number)) if value is not None), default=None)
    return merged


class ProcessLists:
    """NVML's three lists of a device's processes: compute, graphics, and MPS clients."""

    def __init__(self, nvml: ModuleType, device: Device) -> None:
        def query(name: str, function: str) -> Query[list[Any]]:
            # only the instance is queried: processes of neighboring instances do not disturb it
            return Query(nvml, name, "now", of_itself(device, lambda handle: getattr(nvml, function)(handle)))

        self.compute = query("processes", "nvmlDeviceGetComputeRunningProcesses")
        self.queries = [
            self.compute,
            query("processes_graphics", "nvmlDeviceGetGraphicsRunningProcesses"),
            query("processes_mps", "nvmlDeviceGetMPSComputeRunningProcesses"),
        ]

    def read(self) -> Listed | None:
        """The processes of the three lists; None if the compute processes are not listed."""
        answers = [query.ask() for query in self.queries]
        if answers[0] is None:
            return None
        return memory_by_number({int(entry.pid): entry.usedGpuMemory} for answer in answers for entry in answer or [])


class ProcessWatch:
    """Reads a device's processes periodically, from the sampling thread and at the ends of the sections."""

    def __init__(self, nvml: ModuleType, device: Device, clock: SteadyClock) -> None:
        self._nvml, self._uuid, self._clock = nvml, device.uuid, clock
        self._key = (os.getpid(), device.uuid)
        self._lists = ProcessLists(nvml, device)
        self._since_us = time.time_ns() // 1000
        self._utilization = Query(
            nvml, "process_utilization", "since the previous query", of_itself(device, self._utilization_since)
        )
        self.queries: list[Query[Any]] = [*self._lists.queries, self._utilization]
        self._looks: list[Look] = []
        self._sm: list[tuple[int, int, float]] = []  # time (ns), pid, %
        self._names: dict[int, str | None] = {}
        self._related: set[int] = set()  # this process and those that it started
        self._turn = threading.Lock()
        self.look(in_section=False)

    def look(self, in_section: bool) -> None:
        """Record the processes on the GPU with their names, which are not available after their end."""
        if not self._turn.acquire(timeout=TURN_SECONDS):
            return  # the other thread is waiting for NVML, and the run does not wait for that thread
        try:
            listed = self._lists.read()
            if listed is None:
                return
            context = None if os.getpid() in listed else holds_context(self._uuid)
            self._looks.append(Look(listed, context, in_section))
            for number in listed.keys() - self._names.keys():
                self._names[number] = process_name(self._nvml, number)
                if is_related(number):
                    self._related.add(number)
            # NVML's times are of the host's clock; if that was set back, what is known has times that are to come
            newest_us = time.time_ns() // 1000 + AHEAD_US
            if self._since_us > newest_us:
                self._since_us = newest_us - AHEAD_US
            for sample in self._utilization.ask() or []:
                if sample.timeStamp > newest_us:
                    continue
                self._since_us = max(self._since_us, int(sample.timeStamp))
                if sample.smUtil <= 100:  # NVML occasionally reports far larger numbers
                    time_ns = self._clock.of_host_ns(1000 * int(sample.timeStamp))
                    self._sm.append((time_ns, int(sample.pid), float(sample.smUtil)))
        finally:
            self._turn.release()

    def forget_sections(self) -> None:
        """Discard what was seen so far. It was outside of the sections that count."""
        with self._turn:
            self._looks = [replace(look, in_section=False) for look in self._looks]

    def others(self, sections: Sequence[Section]) -> list[GpuProcess] | None:
        """All processes seen in the sections, without this one and those that it started; None if not known."""
        seen, own = self._seen_and_own()
        if not sections or not seen or own is None or self._lists.compute.refused:
            return None
        if own == os.getpid():
            own_numbers, names = self._related, self._names
        else:  # the pids are of another namespace, so a process with the same pid here is a different one
            own_numbers, names = {own}, {}
        utilization = self._sm_by_number(sections)
        return [
            GpuProcess(number, names.get(number), memory, None if utilization is None else utilization.get(number, 0.0))
            for number, memory in sorted(seen.items())
            if number not in own_numbers
        ]

    def problem(self) -> str | None:
        """Why the other processes are not known although NVML lists processes; None if there is no such problem."""
        seen, own = self._seen_and_own()
        if own is not None or not any(look.in_section for look in self._looks):
            return None
        count = f"{len(seen)} process{'es' if len(seen) > 1 else ''}"
        return NOT_TOLD_APART.format(count=count) if seen else NOT_VISIBLE

    def _seen_and_own(self) -> tuple[Listed, int | None]:
        looks = list(self._looks)
        own = own_number(looks, os.getpid(), _own_numbers.get(self._key))
        if own is not None and own != os.getpid():
            _own_numbers[self._key] = own
        return memory_by_number(look.listed for look in looks if look.in_section), own

    def _sm_by_number(self, sections: Sequence[Section]) -> dict[int, float] | None:
        """The maximum SM utilization of each process that has one; None if no process has one.

        This process computes in the sections. A GPU that reports utilization by process therefore reports at least
        this process, and None means that the GPU does not report it.
        """
        highest: dict[int, float] = {}
        for time_ns, number, pct in list(self._sm):
            if any(section.begin_ns <= time_ns <= section.end_ns for section in sections):
                highest[number] = max(pct, highest.get(number, 0.0))
        return highest or None

    def _utilization_since(self, handle: Any) -> list[Any]:
        nvml = self._nvml
        try:
            return list(nvml.nvmlDeviceGetProcessUtilization(handle, self._since_us))
        except nvml.NVMLError as error:
            # no new data since then; pynvml raises SUCCESS if NVML has no sample at all
            if error.value in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_SUCCESS):
                return []
            raise


def processes_csv(processes: Sequence[GpuProcess]) -> str:
    """One row for each process, one column for each field. An unknown value is an empty cell."""
    table = pd.DataFrame([asdict(process) for process in processes])
    return table.astype({"memory_bytes": "Int64"}).to_csv(index=False)


def is_related(pid: int) -> bool:
    """Whether it is this process or one of its descendants."""
    if pid == os.getpid():
        return True
    try:
        return os.getpid() in [parent.pid for parent in psutil.Process(pid).parents()]
    except psutil.Error:  # it has ended, belongs to another user, or its pid is not of this namespace
        return False


def process_name(nvml: ModuleType, pid: int) -> str | None:
    """The program's name on this host; None if it is not visible from here."""
    try:
        return _program(psutil.Process(pid).name())
    except psutil.Error:
        try:
            return _program(text(nvml.nvmlSystemGetProcessName, pid))
        except refusals(nvml):
            return None


def _program(title: str) -> str | None:
    """The program's name from a process title, which a program can set freely and which may contain arguments."""
    words = title.split()
    found = re.match(r"[\w.+:-]+", re.split(r"[/\\]", words[0])[-1]) if words else None
    return found.group() if found else None

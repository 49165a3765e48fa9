"""Who else is on the card: the processes that NVML lists there, and which of them are not this run.

NVML lists process numbers of its own process namespace. Where that is this process's namespace, its number is in the
list and everything else follows. In a container it can be another one: then this process is listed under a number that
it does not know, or not at all. :func:`own_number` says how it is told apart, and when it cannot be.

Names are program names: arguments and environment, which can hold secrets, are never read.
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

from ttt_mlflow.telemetry.context import holds_context
from ttt_mlflow.telemetry.nvml import Device, refusals, text
from ttt_mlflow.telemetry.query import Query, of_itself
from ttt_mlflow.telemetry.samples import Section

TURN_SECONDS = 1.0  # to wait for the other thread's look at the card
NOT_VISIBLE = "NVML lists no process although this one computes: processes are not visible from this container"
NOT_TOLD_APART = (
    "NVML lists {count} under numbers that are not those of this container, and which one is this process "
    "cannot be told apart"
)
Listed = dict[int, int | None]  # {number: bytes of the card's memory; None where NVML does not say}

# {(pid, UUID): the number under which NVML lists this process}, where an earlier run in it found that out;
# by pid, since a forked process inherits what its parent knew
_own_numbers: dict[tuple[int, str], int] = {}


@dataclass(frozen=True)
class GpuProcess:
    """A process on the card.

    pid: as NVML gives it. name: the program's, where the number is one of this namespace.
    sm_utilization_pct: highest while a section was open; 0.0: it did not compute; None: the card does not say.
    """

    pid: int
    name: str | None
    memory_bytes: int | None
    sm_utilization_pct: float | None


@dataclass(frozen=True)
class Look:
    """What NVML listed at one moment; context: whether this process had a CUDA context then, None if unknown."""

    listed: Listed
    context: bool | None
    in_section: bool


def own_number(looks: Sequence[Look], pid: int, known: int | None = None) -> int | None:
    """The number under which NVML lists this process in the sections; None where it cannot be told.

    ``pid`` if it is listed; else ``known``, from an earlier run in this process; else the only number that was there
    in every look while this process had a context, and not in the first one if it had none then.
    """
    seen = memory_by_number(look.listed for look in looks if look.in_section)
    for number in (pid, known):
        if number in seen:
            return number
    candidates = set(seen)
    for look in looks:
        if look.in_section or look.context:
            candidates &= look.listed.keys()
    # the first alone: while a context is being made, NVML may list its process before CUDA says that it is there
    if looks and looks[0].context is False:
        candidates -= looks[0].listed.keys()
    return candidates.pop() if len(candidates) == 1 else None


def memory_by_number(lists: Iterable[Listed]) -> Listed:
    """All that were listed, each with its most memory."""
    merged: Listed = {}
    for listed in lists:
        for number, memory in listed.items():
            merged[number] = max((value for value in (memory, merged.get(number)) if value is not None), default=None)
    return merged


class ProcessLists:
    """NVML's three lists of a device's processes: those that compute, that draw, and the clients of MPS."""

    def __init__(self, nvml: ModuleType, device: Device) -> None:
        def query(name: str, function: str) -> Query[list[Any]]:
            # an instance's processes are asked of itself: those of its neighbors do not disturb it
            return Query(nvml, name, "now", of_itself(device, lambda handle: getattr(nvml, function)(handle)))

        self.compute = query("processes", "nvmlDeviceGetComputeRunningProcesses")
        self.queries = [
            self.compute,
            query("processes_graphics", "nvmlDeviceGetGraphicsRunningProcesses"),
            query("processes_mps", "nvmlDeviceGetMPSComputeRunningProcesses"),
        ]

    def read(self) -> Listed | None:
        """The processes of the three lists; None where those that compute are not listed."""
        answers = [query.ask() for query in self.queries]
        if answers[0] is None:
            return None
        return memory_by_number({int(entry.pid): entry.usedGpuMemory} for answer in answers for entry in answer or [])


class ProcessWatch:
    """Looks at a device's processes from time to time, from the sampling thread and at the ends of the sections."""

    def __init__(self, nvml: ModuleType, device: Device) -> None:
        self._nvml, self._uuid = nvml, device.uuid
        self._key = (os.getpid(), device.uuid)
        self._lists = ProcessLists(nvml, device)
        self._since_us = time.time_ns() // 1000
        self._utilization = Query(
            nvml, "process_utilization", "since the query before", of_itself(device, self._utilization_since)
        )
        self.queries: list[Query[Any]] = [*self._lists.queries, self._utilization]
        self._looks: list[Look] = []
        self._sm: list[tuple[int, int, float]] = []  # time (ns), number, %
        self._names: dict[int, str | None] = {}
        self._related: set[int] = set()  # this process and those that it started
        self._turn = threading.Lock()
        self.look(in_section=False)

    def look(self, in_section: bool) -> None:
        """Note who is on the card; what has ended later has its name by then."""
        if not self._turn.acquire(timeout=TURN_SECONDS):
            return  # NVML holds the other thread; the run does not wait for it
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
            for sample in self._utilization.ask() or []:
                self._since_us = max(self._since_us, int(sample.timeStamp))
                if sample.smUtil <= 100:  # NVML gives numbers far beyond now and then
                    self._sm.append((1000 * int(sample.timeStamp), int(sample.pid), float(sample.smUtil)))
        finally:
            self._turn.release()

    def forget_sections(self) -> None:
        """What was seen until now was outside of any section that counts."""
        with self._turn:
            self._looks = [replace(look, in_section=False) for look in self._looks]

    def others(self, sections: Sequence[Section]) -> list[GpuProcess] | None:
        """All processes seen in the sections but this one and those that it started; None where that is not known."""
        seen, own = self._seen_and_own()
        if not sections or not seen or own is None or self._lists.compute.refused:
            return None
        if own == os.getpid():
            own_numbers, names = self._related, self._names
        else:  # the numbers are of another namespace: what has that number here is somebody else
            own_numbers, names = {own}, {}
        utilization = self._sm_by_number(sections)
        return [
            GpuProcess(number, names.get(number), memory, None if utilization is None else utilization.get(number, 0.0))
            for number, memory in sorted(seen.items())
            if number not in own_numbers
        ]

    def problem(self) -> str | None:
        """Why the others are not known although NVML lists processes; None where there is no such reason."""
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
        """The highest SM utilization of each that has one; None where nobody has: then the card does not say.

        This process computes in the sections, so that a card which tells utilization by process tells at least its.
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
            # nothing new since then; pynvml raises SUCCESS where NVML has no sample at all
            if error.value in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_SUCCESS):
                return []
            raise


def processes_csv(processes: Sequence[GpuProcess]) -> str:
    """A row a process, a column a field; empty where it is not known."""
    table = pd.DataFrame([asdict(process) for process in processes])
    return table.astype({"memory_bytes": "Int64"}).to_csv(index=False)


def is_related(pid: int) -> bool:
    """Whether it is this process or one that it started, directly or not."""
    if pid == os.getpid():
        return True
    try:
        return os.getpid() in [parent.pid for parent in psutil.Process(pid).parents()]
    except psutil.Error:  # ended, of another user, or no number of this namespace
        return False


def process_name(nvml: ModuleType, pid: int) -> str | None:
    """The program's name as this host knows it; None where it cannot be seen from here."""
    try:
        return _program(psutil.Process(pid).name())
    except psutil.Error:
        try:
            return _program(text(nvml.nvmlSystemGetProcessName(pid)))
        except refusals(nvml):
            return None


def _program(title: str) -> str | None:
    """The program's name out of a title that a program can set as it likes, arguments included."""
    words = title.split()
    found = re.match(r"[\w.+:-]+", words[0].rsplit("/", 1)[-1]) if words else None
    return found.group() if found else None

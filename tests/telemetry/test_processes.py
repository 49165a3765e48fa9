"""Who else is on the card, and when that can be told, from a stand-in for NVML."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.telemetry.fake_nvml import GPU_IS_LOST, GPU_UUID, NOT_SUPPORTED, SUCCESS, FakeNvml, process, utilization
from ttt_mlflow.telemetry import processes
from ttt_mlflow.telemetry.clock import SteadyClock
from ttt_mlflow.telemetry.nvml import find_device
from ttt_mlflow.telemetry.processes import (
    GpuProcess,
    Look,
    ProcessWatch,
    is_related,
    memory_by_number,
    own_number,
    process_name,
    processes_csv,
)
from ttt_mlflow.telemetry.samples import Section

ME = os.getpid()
FOREIGN, NOBODY = 2**30, 2**30 + 1  # numbers that no process of this host has


class Card:
    """A card that is watched while sections are measured on it."""

    def __init__(self, nvml: FakeNvml) -> None:
        self.nvml = nvml
        self.clock = SteadyClock()
        self.watch = ProcessWatch(nvml, find_device(nvml, GPU_UUID), self.clock)
        self.sections: list[Section] = []

    def section(self, *looks: list[int]) -> None:
        """A section with a look at each of these lists of processes; utilisation is sampled in it."""
        begin_ns = self.clock.now_ns()
        for pids in looks:
            self.nvml.processes = [process(pid) for pid in pids]
            self.watch.look(in_section=True)
        self.sections.append(Section(begin_ns, self.clock.now_ns()))

    @property
    def others(self) -> list[int] | None:
        found = self.watch.others(self.sections)
        return None if found is None else [one.pid for one in found]


@pytest.fixture
def card(nvml: FakeNvml) -> Card:
    nvml.processes = []
    return Card(nvml)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "--token=s3cr3t"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as started:
        yield started


# In the namespace of NVML's numbers


def test_alone(card: Card) -> None:
    card.section([ME])
    assert card.others == []
    assert card.watch.problem() is None


def test_all_that_were_there_while_it_was_measured(card: Card, nvml: FakeNvml) -> None:
    nvml.processes = [process(7001)]
    card.watch.look(in_section=False)
    card.section([ME, FOREIGN], [ME])
    card.section([ME, NOBODY])
    assert card.others == [FOREIGN, NOBODY]


def test_what_this_process_started_is_its_own(card: Card, child: subprocess.Popen[bytes]) -> None:
    card.section([ME, child.pid, FOREIGN])
    assert card.others == [FOREIGN]


def test_whoever_started_this_process_is_another(card: Card) -> None:
    parent = os.getppid()
    card.section([ME, parent])
    assert card.others == [parent]


def test_the_most_memory_counts(card: Card, nvml: FakeNvml) -> None:
    for memory in (1_000_000_000, 4_000_000_000, None):
        nvml.processes = [process(ME), process(FOREIGN, memory)]
        card.watch.look(in_section=True)
    card.section([ME])
    (found,) = card.watch.others(card.sections) or []
    assert found == GpuProcess(FOREIGN, None, 4_000_000_000, None)


def test_who_draws_and_who_shares_by_mps_is_there_too(card: Card, nvml: FakeNvml) -> None:
    nvml.graphics_processes, nvml.mps_processes = [process(FOREIGN)], [process(NOBODY)]
    card.section([ME])
    assert card.others == [FOREIGN, NOBODY]


def test_without_a_section_nothing_is_said(card: Card) -> None:
    assert card.others is None
    assert card.watch.problem() is None


@pytest.mark.parametrize("code", [NOT_SUPPORTED, GPU_IS_LOST])
def test_a_card_that_lists_nothing(nvml: FakeNvml, code: int) -> None:
    if code == NOT_SUPPORTED:
        nvml.refuses["nvmlDeviceGetComputeRunningProcesses"] = code
    card = Card(nvml)
    card.section([ME])
    nvml.refuses["nvmlDeviceGetComputeRunningProcesses"] = code
    card.section([ME])
    assert card.others is None
    assert card.watch.problem() is None, "the query's own reason says more"


# In a container


def test_an_empty_list_is_not_nobody(card: Card) -> None:
    card.section([])
    assert card.others is None
    assert "not visible from this container" in str(card.watch.problem())


def test_the_only_number_is_this_process(card: Card) -> None:
    card.section([FOREIGN], [FOREIGN])
    assert card.others == []
    assert card.watch.problem() is None


def test_numbers_that_cannot_be_told_apart(card: Card) -> None:
    card.section([FOREIGN, NOBODY])
    assert card.others is None
    assert "NVML lists 2 processes with pids of another namespace than this container's" in str(card.watch.problem())


def with_context(monkeypatch: pytest.MonkeyPatch, context: bool) -> None:
    monkeypatch.setattr(processes, "holds_context", lambda uuid: context)


def test_who_came_with_the_context_is_this_process(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    with_context(monkeypatch, False)
    nvml.processes = [process(NOBODY)]
    card = Card(nvml)
    with_context(monkeypatch, True)
    card.section([FOREIGN, NOBODY])
    assert card.others == [NOBODY]
    assert (card.watch.others(card.sections) or [])[0].name is None


def test_who_came_after_the_context_is_another(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    with_context(monkeypatch, True)
    nvml.processes = [process(FOREIGN)]
    card = Card(nvml)
    card.section([FOREIGN, NOBODY])
    assert card.others == [NOBODY]


def test_what_a_run_found_out_the_next_one_in_this_process_knows(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_context(monkeypatch, True)
    nvml.processes = [process(FOREIGN)]
    first = Card(nvml)
    first.section([FOREIGN])
    assert first.others == []
    nvml.processes = [process(FOREIGN), process(NOBODY)]
    second = Card(nvml)
    second.section([FOREIGN, NOBODY])
    assert second.others == [NOBODY]


def test_a_number_of_another_namespace_has_no_name_here(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, child: subprocess.Popen[bytes]
) -> None:
    """The child's number is somebody else's there, and what runs under it here is not on the card."""
    with_context(monkeypatch, False)
    nvml.processes = [process(child.pid)]
    card = Card(nvml)
    with_context(monkeypatch, True)
    card.section([FOREIGN, child.pid])
    assert card.watch.others(card.sections) == [GpuProcess(child.pid, None, 3_000_000_000, None)]


NUMBERS = st.sets(st.integers(100, 105))
LOOKS = st.lists(st.builds(lambda pids, there: (dict.fromkeys(pids), there), NUMBERS, st.booleans()), max_size=6)


@given(LOOKS, st.booleans())
def test_whoever_is_taken_for_this_process_was_there_whenever_it_computed(
    listed: list[tuple[dict[int, int | None], bool]], at_first: bool
) -> None:
    """This process has number 99 where NVML is, and is listed as soon as it has a context."""
    looks = [
        Look({**pids, 99: None}, context=True, in_section=there) if index or at_first else Look(pids, False, False)
        for index, (pids, there) in enumerate(listed)
    ]
    found = own_number(looks, ME)
    measured = [look for look in looks if look.in_section]
    assert found in (None, 99)
    if measured and memory_by_number(look.listed for look in measured).keys() == {99}:
        assert found == 99


# Utilisation


def test_who_computed_and_who_only_held_memory(card: Card, nvml: FakeNvml) -> None:
    card.section([ME, FOREIGN, NOBODY])
    begin_ns = card.sections[0].begin_ns
    nvml.process_utilization = [
        utilization(ME, 90, begin_ns // 1000 + 10),
        utilization(FOREIGN, 30, begin_ns // 1000 + 20),
        utilization(FOREIGN, 55, begin_ns // 1000 + 30),
        utilization(FOREIGN, 99, begin_ns // 1000 - 10),  # before the section
        utilization(FOREIGN, 4_000_000, begin_ns // 1000 + 40),  # no percentage
    ]
    card.watch._since_us = 0
    card.sections[0] = Section(begin_ns, begin_ns + 10**9)
    card.watch.look(in_section=True)
    found = {one.pid: one.sm_utilization_pct for one in card.watch.others(card.sections) or []}
    assert found == {FOREIGN: 55.0, NOBODY: 0.0}


def test_a_sample_is_read_once(card: Card, nvml: FakeNvml) -> None:
    nvml.process_utilization = [utilization(ME, 90, time.time_ns() // 1000 + 10**5)]
    for _ in range(3):
        card.watch.look(in_section=True)
    assert len(card.watch._sm) == 1


@pytest.mark.parametrize("how", ["refused", "no sample", "no sample at all"])
def test_a_card_that_does_not_tell_who_computes(how: str, nvml: FakeNvml) -> None:
    if how == "refused":
        nvml.refuses["nvmlDeviceGetProcessUtilization"] = NOT_SUPPORTED
    elif how == "no sample at all":
        nvml.no_utilization_code = SUCCESS  # so pynvml says it
    card = Card(nvml)
    card.section([ME, FOREIGN])
    (found,) = card.watch.others(card.sections) or []
    assert found.sm_utilization_pct is None, "unknown is not idle"
    refused = {query.name: query.refused for query in card.watch.queries if query.refused}
    assert refused == ({"process_utilization": "Not Supported"} if how == "refused" else {})


# Names


def test_names_are_those_of_programs(nvml: FakeNvml, child: subprocess.Popen[bytes]) -> None:
    assert process_name(nvml, child.pid) == psutil.Process(child.pid).name()
    assert process_name(nvml, FOREIGN) is None
    nvml.process_names[FOREIGN] = "/usr/bin/python3 train.py --token=s3cr3t"
    assert process_name(nvml, FOREIGN) == "python3"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("python3.12", "python3.12"),
        ("C:\\Programs\\train.exe --key=s3cr3t", "train.exe"),
        ("/opt/app/nvidia-cuda-mps-server", "nvidia-cuda-mps-server"),
        ("ray::train(key=s3cr3t)", "ray::train"),
        ("postgres: user s3cr3t", "postgres:"),
        ("", None),
        ("   ", None),
        ("/", None),
    ],
)
def test_a_title_gives_no_more_than_a_name(nvml: FakeNvml, title: str, name: str | None) -> None:
    nvml.process_names[FOREIGN] = title
    assert process_name(nvml, FOREIGN) == name


def test_a_name_that_is_not_utf_8(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-ml-py decodes what NVML says, and raises for other encodings."""

    def name(pid: int) -> str:
        return b"C:\\Programme\\Pr\xfcfung.exe".decode()

    monkeypatch.setattr(nvml, "nvmlSystemGetProcessName", name)
    assert process_name(nvml, FOREIGN) == "Pr"


def test_what_has_ended_since_has_its_name(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = {FOREIGN: "trainer"}
    monkeypatch.setattr(processes, "process_name", lambda nvml, pid: alive.get(pid))
    card.section([ME, FOREIGN])
    alive.clear()
    card.section([ME])
    assert [(one.pid, one.name) for one in card.watch.others(card.sections) or []] == [(FOREIGN, "trainer")]


def test_related(child: subprocess.Popen[bytes]) -> None:
    assert is_related(ME)
    assert is_related(child.pid)
    assert not is_related(os.getppid())
    assert not is_related(FOREIGN)


# The record


def test_csv() -> None:
    lines = processes_csv([GpuProcess(7, "python", 3_000, 55.0), GpuProcess(8, None, None, None)]).splitlines()
    assert lines == ["pid,name,memory_bytes,sm_utilization_pct", "7,python,3000,55.0", "8,,,"]


@given(st.lists(st.dictionaries(st.integers(1, 5), st.none() | st.integers(0, 9))))
def test_merged_lists_hold_everybody_with_the_most_memory(lists: list[dict[int, int | None]]) -> None:
    merged = memory_by_number(lists)
    assert merged.keys() == {number for listed in lists for number in listed}
    for number, memory in merged.items():
        known = [listed[number] for listed in lists if listed.get(number) is not None]
        assert memory == (max(value for value in known if value is not None) if known else None)

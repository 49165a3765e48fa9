"""The host divided among its GPUs: cores of the right node, whole ones, none twice."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.telemetry.fake_nvml import DRIVER_NOT_LOADED, NOT_SUPPORTED, FakeNvml
from tests.telemetry.test_neighbors import EIGHT
from ttt_mlflow.telemetry.host_shares import (
    HostShare,
    Near,
    divided,
    host_shares,
    numa_nodes,
    numbers_in,
    ranges,
    siblings_of,
)

CORES = 64  # physical ones: 0-31 on the first node, 32-63 on the second, each with a second thread 64 higher


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """The folder of the topology of a host with two sockets of 32 cores, two threads each."""
    (tmp_path / "node").mkdir()
    (tmp_path / "node/has_memory").write_text("0-1\n")
    for core in range(2 * CORES):
        folder = tmp_path / f"cpu/cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % CORES},{core % CORES + CORES}\n")
    return tmp_path


@pytest.fixture
def host(nvml: FakeNvml) -> FakeNvml:
    nvml.uuids = list(EIGHT)
    nvml.nodes = [[*range(32), *range(64, 96)], [*range(32, 64), *range(96, 128)]]  # type: ignore[list-item]
    return nvml


def test_eight_gpus_on_two_nodes(host: FakeNvml, system: Path) -> None:
    shares = host_shares(range(128), system)
    assert list(shares) == EIGHT
    assert shares[EIGHT[0]].in_words == "cores 0-7,64-71 of NUMA node 0, 8 threads"
    assert shares[EIGHT[3]].in_words == "cores 24-31,88-95 of NUMA node 0, 8 threads"
    assert shares[EIGHT[4]].in_words == "cores 32-39,96-103 of NUMA node 1, 8 threads"
    every = [core for share in shares.values() for core in share.cores]
    assert sorted(every) == list(range(128)), "each core is one GPU's"
    assert host.open_count == 0


def test_only_what_this_process_may_use(host: FakeNvml, system: Path) -> None:
    """As in a container with some of the cores: the second node's GPUs are told why they are not pinned."""
    shares = host_shares([*range(4), *range(64, 68), 10], system)
    assert shares[EIGHT[0]] == HostShare(1, (0, 64), 0)
    assert shares[EIGHT[3]] == HostShare(1, (3, 67), 0)
    assert shares[EIGHT[4]].cores == ()
    assert "may not use the cores of the GPU's NUMA node" in shares[EIGHT[4]].in_words
    few = host_shares([0, 1], system)
    assert few[EIGHT[2]].cores == (0, 1), "fewer cores than GPUs: they share them"


def test_one_node_is_not_pinned_but_its_threads_are_divided(host: FakeNvml, system: Path) -> None:
    (system / "node/has_memory").write_text("0\n")
    shares = host_shares(range(128), system)
    assert set(shares.values()) == {HostShare(8)}
    assert shares[EIGHT[0]].in_words == "8 threads, not pinned"
    host.uuids = EIGHT[:1]
    alone = host_shares(range(128), system)
    assert alone == {EIGHT[0]: HostShare(None)}, "nothing is divided"
    assert alone[EIGHT[0]].in_words == "all threads, not pinned"


def test_an_nvml_that_does_not_tell(host: FakeNvml, system: Path, tmp_path: Path) -> None:
    """Then the system does, by the PCI slot and the node."""
    expected = host_shares(range(128), system)
    host.refuses["nvmlDeviceGetMemoryAffinity"] = NOT_SUPPORTED
    pci = tmp_path / "devices"
    for number in range(8):
        slot = pci / f"0000:{number + 0x1B:02x}:00.0"
        slot.mkdir(parents=True)
        (slot / "numa_node").write_text(f"{number // 4}\n")
    assert host_shares(range(128), system, pci) == expected
    host.refuses["nvmlDeviceGetCpuAffinity"] = NOT_SUPPORTED
    for node, cores in enumerate(("0-31,64-95", "32-63,96-127")):
        (system / f"node/node{node}").mkdir()
        (system / f"node/node{node}/cpulist").write_text(f"{cores}\n")
    assert host_shares(range(128), system, pci) == expected


@pytest.mark.parametrize("told", ["-1", "", "x"])
def test_a_node_that_nobody_tells(told: str, host: FakeNvml, system: Path, tmp_path: Path) -> None:
    host.refuses["nvmlDeviceGetMemoryAffinity"] = NOT_SUPPORTED
    slot = tmp_path / "devices/0000:1b:00.0"
    slot.mkdir(parents=True)
    (slot / "numa_node").write_text(told)
    shares = host_shares(range(128), system, tmp_path / "devices")
    assert shares[EIGHT[0]].in_words == "8 threads, not pinned (the NUMA node of the GPU is not known)"
    host.refuses["nvmlDeviceGetCount"] = NOT_SUPPORTED
    assert host_shares(range(128), system) == {}
    host.refuses["nvmlInit"] = DRIVER_NOT_LOADED
    assert host_shares(range(128), system) == {}


def test_a_gpu_that_is_lost_has_no_share(host: FakeNvml, system: Path) -> None:
    host.lost = {EIGHT[1]}
    assert list(host_shares(range(128), system)) == [EIGHT[0], *EIGHT[2:]]


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert numa_nodes(tmp_path) == 1
    assert siblings_of([3, 1], tmp_path) == [frozenset({1}), frozenset({3})]


def test_a_share_goes_to_another_process_and_comes_back() -> None:
    for share in (HostShare(8, (0, 1), 1), HostShare(2), HostShare(None), HostShare(1, why_not="because")):
        assert HostShare.of_json(share.as_json()) == share


@given(st.sets(st.integers(0, 300)))
def test_lists_of_cores_are_read_as_they_are_written(numbers: set[int]) -> None:
    assert numbers_in(ranges(numbers)) == numbers


@pytest.mark.parametrize("words", ["x", "1-", "-1", "1-2-3", "1;2", "٣"])
def test_what_is_no_list_of_cores(words: str) -> None:
    with pytest.raises(ValueError, match="no number and no range"):
        numbers_in(words)


@given(
    nodes=st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=12), min_size=1, max_size=4),
    gpus=st.lists(st.integers(0, 3), min_size=1, max_size=9),
)
def test_no_core_is_given_twice_while_there_are_enough(nodes: Sequence[Sequence[int]], gpus: Sequence[int]) -> None:
    """nodes: for each, the number of threads of each of its cores. gpus: the node of each."""
    cores: list[frozenset[int]] = []
    of_node: list[frozenset[int]] = []
    for threads in nodes:
        before = sum(map(len, cores))
        for count in threads:
            start = sum(map(len, cores))
            cores.append(frozenset(range(start, start + count)))
        of_node.append(frozenset(range(before, sum(map(len, cores)))))
    near = {str(place): Near(of_node[node % len(nodes)], node % len(nodes)) for place, node in enumerate(gpus)}
    shares = divided(near, cores, len(nodes))
    assert shares.keys() == near.keys()
    for uuid, share in shares.items():
        assert share.threads is None if len(gpus) == len(nodes) == 1 else (share.threads or 0) >= 1
        assert set(share.cores) <= set(near[uuid].cores or ())
        assert bool(share.cores) == (len(nodes) > 1)
        for core in cores:
            assert not core & set(share.cores) or core <= set(share.cores), "whole cores"
    for node in range(len(nodes) if len(nodes) > 1 else 0):
        there = [set(shares[uuid].cores) for uuid in near if near[uuid].node == node]
        if len(nodes[node]) >= len(there):
            assert sum(map(len, there)) == len(set().union(*there))

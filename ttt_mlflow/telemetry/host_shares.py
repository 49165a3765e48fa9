"""The share of the host that each of its GPUs has: cores and memory of its NUMA node, and a number of threads.

The cores near a GPU are divided among the GPUs that are near them, whether all of them measure or not, so that a
measurement has the same cores alone and beside others, and two sweeps on different GPUs have different ones.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from ttt_mlflow.telemetry.nvml import TelemetryUnavailable, load_nvml, refusals, text

WORD_BITS = 64  # of NVML's masks
MOST_CORES, MOST_NODES = 8192, 1024  # that NVML is asked for
SYSTEM, PCI = Path("/sys/devices/system"), Path("/sys/bus/pci/devices")


@dataclass(frozen=True)
class HostShare:
    """What one process of a GPU gets of the host.

    threads: for its libraries and compilers; None: as many as they choose, as with the only GPU of a host. cores: to
    which it is pinned; empty: it is not, as on a host with one NUMA node. node: the NUMA node of these cores, from
    which it takes its memory; None if it is not pinned. why_not: why it is not pinned although there are several nodes.
    """

    threads: int | None
    cores: tuple[int, ...] = ()
    node: int | None = None
    why_not: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(value["threads"], tuple(value["cores"]), value["node"], value["why_not"])

    @property
    def in_words(self) -> str:
        """For example ``cores 0-15,64-79 of NUMA node 0, 16 threads``."""
        threads = f"{self.threads or 'all'} thread{'' if self.threads == 1 else 's'}"
        if self.cores:
            return f"cores {ranges(self.cores)} of NUMA node {self.node}, {threads}"
        return f"{threads}, not pinned{f' ({self.why_not})' if self.why_not else ''}"


@dataclass(frozen=True)
class Near:
    """What is near a GPU: the cores of its NUMA node, and the node. None: neither NVML nor the system tells."""

    cores: frozenset[int] | None
    node: int | None


def host_shares(usable: Iterable[int] | None = None, system: Path = SYSTEM, pci: Path = PCI) -> dict[str, HostShare]:
    """{UUID as NVML spells it: its share} of each GPU that NVML lists; empty without NVML.

    usable: the cores that this process may use; None: those that the system says. system, pci: the folders with the
    topology and with the devices.
    """
    allowed = frozenset(os.sched_getaffinity(0) if usable is None else usable)
    try:
        nvml = load_nvml()
    except TelemetryUnavailable:
        return {}
    try:
        near = _near_each(nvml, system, pci)
    except refusals(nvml):
        return {}
    finally:
        nvml.nvmlShutdown()
    return divided(near, siblings_of(allowed, system), numa_nodes(system))


def divided(near: Mapping[str, Near], cores: Sequence[frozenset[int]], nodes: int) -> dict[str, HostShare]:
    """Divide the host among the GPUs.

    near: what is near each. cores: the physical cores that may be used, each with the numbers of its threads. nodes:
    how many NUMA nodes the host has. Where several GPUs are near the same cores, each gets as many whole cores as the
    others; where there are fewer cores than GPUs, they share them.
    """
    everywhere = max(1, len(cores) // len(near)) if len(near) > 1 else None
    if nodes < 2:
        return dict.fromkeys(near, HostShare(everywhere))
    shares: dict[str, HostShare] = {}
    for uuid, one in near.items():
        if one.cores is None or one.node is None:
            shares[uuid] = HostShare(everywhere, why_not="the NUMA node of the GPU is not known")
            continue
        own = [core for core in cores if core <= one.cores]
        if not own:
            shares[uuid] = HostShare(everywhere, why_not="this process may not use the cores of the GPU's NUMA node")
            continue
        together = [other for other, its in near.items() if its.cores == one.cores]
        each = len(own) // len(together)
        first = together.index(uuid) * each
        mine = own[first : first + each] if each else own
        numbers = tuple(sorted(number for core in mine for number in core))
        shares[uuid] = HostShare(max(1, each), numbers, one.node)
    return shares


def siblings_of(usable: Iterable[int], system: Path = SYSTEM) -> list[frozenset[int]]:
    """The physical cores in ``usable``, each with those of its threads that are in it, in the order of numbers."""
    left, found = set(usable), []
    while left:
        first = min(left)
        threads = {first}
        with suppress(OSError, ValueError):  # not told: each thread counts as a core
            path = system / f"cpu/cpu{first}/topology/thread_siblings_list"
            threads |= numbers_in(path.read_text()) & left
        found.append(frozenset(threads))
        left -= threads
    return found


def numa_nodes(system: Path = SYSTEM) -> int:
    """The number of NUMA nodes with memory; 1 if the system does not tell."""
    for name in ("has_memory", "online"):
        with suppress(OSError, ValueError):
            return len(numbers_in((system / "node" / name).read_text()))
    return 1


def numbers_in(words: str) -> set[int]:
    """The numbers in a list as the kernel writes it: ``0-3,8``. Raises ValueError for another text."""
    found: set[int] = set()
    for word in filter(None, words.strip().split(",")):
        if not re.fullmatch(r"[0-9]+(-[0-9]+)?", word, re.ASCII):
            raise ValueError(f"{word}: no number and no range")
        low, _, high = word.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return found


def ranges(numbers: Iterable[int]) -> str:
    """The opposite of :func:`numbers_in`, for example ``0-3,8``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def _near_each(nvml: ModuleType, system: Path, pci: Path) -> dict[str, Near]:
    found = {}
    for number in range(int(nvml.nvmlDeviceGetCount())):
        with suppress(*refusals(nvml)):  # one that is lost has no share
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            node = _node(nvml, handle)
            node = _node_of_slot(nvml, handle, pci) if node is None else node
            cores = _cores(nvml, handle) or _cores_of(node, system)
            found[text(nvml.nvmlDeviceGetUUID, handle)] = Near(cores, node)
    return found


def _cores(nvml: ModuleType, handle: Any) -> frozenset[int] | None:
    try:
        found = _bits(nvml.nvmlDeviceGetCpuAffinity(handle, MOST_CORES // WORD_BITS))
    except refusals(nvml):
        return None
    return found or None


def _node(nvml: ModuleType, handle: Any) -> int | None:
    """The GPU's NUMA node; None if NVML names none or several."""
    try:
        scope = nvml.NVML_AFFINITY_SCOPE_NODE
        found = _bits(nvml.nvmlDeviceGetMemoryAffinity(handle, MOST_NODES // WORD_BITS, scope))
    except refusals(nvml):
        return None
    return next(iter(found)) if len(found) == 1 else None


def _node_of_slot(nvml: ModuleType, handle: Any, pci: Path) -> int | None:
    """The GPU's NUMA node by its PCI slot; None if the system does not tell."""
    try:
        # NVML writes 00000000:1B:00.0, the kernel 0000:1b:00.0
        slot = text(lambda: nvml.nvmlDeviceGetPciInfo(handle).busId).lower()[-12:]
        node = int((pci / slot / "numa_node").read_text())
    except refusals(nvml):
        return None
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _cores_of(node: int | None, system: Path) -> frozenset[int] | None:
    try:
        return frozenset(numbers_in((system / f"node/node{node}/cpulist").read_text())) or None
    except (OSError, ValueError):
        return None


def _bits(words: Iterable[int]) -> frozenset[int]:
    """The numbers of the bits that are set in a mask of NVML."""
    return frozenset(
        WORD_BITS * place + bit for place, word in enumerate(words) for bit in range(WORD_BITS) if int(word) >> bit & 1
    )

"""The other GPUs of the host while this one is measured: which of them were busy, and the power that they drew.

They share the host's cores, memory, power supply and cooling with the GPU that is measured. Of a GPU that is divided by
MIG, the other instances are no neighbors: NVML does not tell them from this one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pandas as pd

from ttt_mlflow import names
from ttt_mlflow.telemetry.nvml import Device, refusals, text
from ttt_mlflow.telemetry.query import Query
from ttt_mlflow.telemetry.readings import Row
from ttt_mlflow.telemetry.samples import Section, whole

BUSY_PCT = 5.0  # utilization above which a GPU counts as busy
OTHERS = "other GPUs"  # column ``of`` of queries.csv


@dataclass(frozen=True)
class Neighbor:
    """Another GPU of the host. number: as NVML counts, and nvidia-smi shows."""

    number: int
    uuid: str
    handle: Any


@dataclass(frozen=True)
class Look:
    """All neighbors at one moment, in the order of :attr:`NeighborWatch.neighbors`. None: NVML did not answer."""

    time_ns: int
    utilization_pct: Sequence[float] | None
    power_w: Sequence[float] | None


class NeighborWatch:
    """Reads the other GPUs of the host, from the sampling thread alone.

    Two queries for all of them together, each of 1.5 to 2 µs a GPU. They are made twice a second, as NVML's values
    cover up to a second. Without another GPU there is no query.
    """

    def __init__(self, nvml: ModuleType, device: Device) -> None:
        self.neighbors, self._fault = _others(nvml, device)
        self._looks: list[Look] = []

        def utilization(handle: Any) -> float:
            return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)

        def power(handle: Any) -> float:
            return float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1e3

        self.queries: list[Query[list[float]]] = []
        if self.neighbors:
            self.queries = [
                Query(nvml, "neighbors_utilization", "the last 1/6 to 1 s", [(OTHERS, self._each(utilization))]),
                Query(nvml, "neighbors_power", "the last 1 s", [(OTHERS, self._each(power))]),
            ]

    @property
    def refused(self) -> dict[str, str]:
        """Why the host's other GPUs could not be listed; empty if they could."""
        return {"neighbors": self._fault} if self._fault else {}

    def look(self, time_ns: int) -> Row:
        """Read all neighbors. Returns how many are busy and their power, as far as NVML answers for all of them."""
        if not self.queries:
            return {}
        utilization, power = (query.ask() for query in self.queries)
        self._looks.append(Look(time_ns, utilization, power))
        row: Row = {}
        if utilization is not None:
            row[names.NEIGHBOR_GPUS_BUSY.name] = float(sum(pct > BUSY_PCT for pct in utilization))
        if power is not None:
            row[names.NEIGHBOR_POWER_W.name] = sum(power)
        return row

    def frame(self, sections: Sequence[Section]) -> pd.DataFrame:
        """One row for each neighbor: gpu, uuid, busy_pct (share of the looks), utilization_pct_mean, power_w_mean.

        Of the looks from the first section's begin to the last one's end; empty without one. A value that NVML did not
        give is NaN.
        """
        looks = [
            look
            for look in list(self._looks)
            if any(one.begin_ns <= look.time_ns <= one.end_ns for one in whole(sections))
        ]
        if not looks:
            return pd.DataFrame()
        rows = []
        for place, neighbor in enumerate(self.neighbors):
            used = pd.Series([look.utilization_pct[place] for look in looks if look.utilization_pct], dtype="float64")
            drawn = pd.Series([look.power_w[place] for look in looks if look.power_w], dtype="float64")
            busy = 100 * (used > BUSY_PCT).mean()  # NaN without a value
            rows.append((neighbor.number, neighbor.uuid, busy, used.mean(), drawn.mean()))
        columns = ["gpu", "uuid", "busy_pct", "utilization_pct_mean", names.POWER_W_MEAN.name]
        return pd.DataFrame(rows, columns=columns)

    def _each(self, read: Callable[[Any], float]) -> Callable[[], list[float]]:
        return lambda: [read(neighbor.handle) for neighbor in self.neighbors]


def _others(nvml: ModuleType, device: Device) -> tuple[list[Neighbor], str | None]:
    """The GPUs that NVML lists besides the one of ``device``, and why some are not known, or None.

    In a container, NVML lists the GPUs that it was given.
    """
    if device.own_name == "instance" and device.parent is None:
        return [], "which GPU this MIG instance is a part of is not known"
    found: list[Neighbor] = []
    faults = []
    errors: tuple[type[Exception], ...] = (*refusals(nvml), AttributeError)
    try:
        own = text(nvml.nvmlDeviceGetUUID, device.handle if device.parent is None else device.parent)
        count = int(nvml.nvmlDeviceGetCount())
    except errors as error:
        return [], str(error)
    for number in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            if (uuid := text(nvml.nvmlDeviceGetUUID, handle)) != own:
                found.append(Neighbor(number, uuid, handle))
        except errors as error:  # one that is lost is not busy
            faults.append(f"GPU {number}: {error}")
    return found, "; ".join(faults) or None

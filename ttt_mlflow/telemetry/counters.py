"""What NVML counts since the driver was loaded: energy, clock violations, ECC errors.

They are read at the two ends of a section, never in it: the energy counter alone takes milliseconds.
"""

from types import ModuleType
from typing import Any

from ttt_mlflow.names import VIOLATION_POLICIES
from ttt_mlflow.telemetry.nvml import Device
from ttt_mlflow.telemetry.query import Query, of_either, of_itself

ENERGY, ECC = "energy", "ecc_uncorrected_errors"
COVERS = "since the driver was loaded; a section's is the difference of its ends"


class SectionCounters:
    """The counters by name: energy (J), violation_<policy> (s) and ecc_uncorrected_errors.

    backwards: {name: reason} of those that ran backwards, as after a reload of the driver.
    """

    def __init__(self, nvml: ModuleType, device: Device) -> None:
        def energy(handle: Any) -> float:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

        def violation(policy: str) -> Any:
            number = getattr(nvml, f"NVML_PERF_POLICY_{policy.upper()}")
            return lambda handle: nvml.nvmlDeviceGetViolationStatus(handle, number).violationTime / 1e9

        def ecc(handle: Any) -> float:
            kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            return float(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))

        # a card's energy is that of all its instances; its clocks and its memory errors concern each of them
        spellings = {ECC: of_either(device, ecc)}
        spellings |= {violation_query(policy): of_either(device, violation(policy)) for policy in VIOLATION_POLICIES}
        spellings[ENERGY] = of_itself(device, energy)
        self.queries = [Query(nvml, name, COVERS, calls) for name, calls in spellings.items()]
        self.backwards: dict[str, str] = {}

    def at_begin(self) -> dict[str, float]:
        """The counters that are answered, energy read last: nearest to the section."""
        return self._read(self.queries)

    def at_end(self) -> dict[str, float]:
        """The same, energy read first."""
        return self._read(self.queries[::-1])

    def between(self, begin: dict[str, float], end: dict[str, float]) -> dict[str, float]:
        """What was counted; without what is not known at both ends."""
        counted = {name: end[name] - value for name, value in begin.items() if name in end}
        for name, value in counted.items():
            if value < 0:
                self.backwards[name] = f"ran backwards by {-value:g} in a section: not known there"
        return {name: value for name, value in counted.items() if value >= 0}

    @staticmethod
    def _read(queries: list[Query[float]]) -> dict[str, float]:
        read = {query.name: query.ask() for query in queries}
        return {name: value for name, value in read.items() if value is not None}


def violation_query(policy: str) -> str:
    """Name of the query for one of :data:`ttt_mlflow.names.VIOLATION_POLICIES`."""
    return f"violation_{policy}"

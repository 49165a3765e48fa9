"""NVML's counters since the driver was loaded: energy, clock violations, ECC errors.

They are read at both ends of a section, never inside it. Reading the energy counter alone takes milliseconds.
"""

from types import ModuleType
from typing import Any

from ttt_mlflow.names import VIOLATION_POLICIES
from ttt_mlflow.numerals import significant
from ttt_mlflow.telemetry.nvml import Device
from ttt_mlflow.telemetry.query import Query, of_either, of_itself

ENERGY, ECC = "energy", "ecc_uncorrected_errors"
COVERS = "since the driver was loaded; a section's value is the difference between its ends"


class SectionCounters:
    """The counters by name: energy (J), violation_<policy> (s) and ecc_uncorrected_errors.

    backwards: {name: reason} of counters that decreased, for example after a reload of the driver.
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

        # a GPU's energy counter includes all its instances; clocks and memory errors are those of the instance
        spellings = {ECC: of_either(device, ecc)}
        spellings |= {violation_query(policy): of_either(device, violation(policy)) for policy in VIOLATION_POLICIES}
        spellings[ENERGY] = of_itself(device, energy)
        self.queries = [Query(nvml, name, COVERS, calls) for name, calls in spellings.items()]
        self.backwards: dict[str, str] = {}

    def at_begin(self) -> dict[str, float]:
        """The available counters. Energy is read last, closest to the section."""
        return self._read(self.queries)

    def at_end(self) -> dict[str, float]:
        """The available counters. Energy is read first, closest to the section."""
        return self._read(self.queries[::-1])

    def between(self, begin: dict[str, float], end: dict[str, float]) -> dict[str, float]:
        """The differences. A counter that is not known at both ends is absent."""
        counted = {name: end[name] - value for name, value in begin.items() if name in end}
        for name, value in counted.items():
            if value < 0:
                self.backwards[name] = f"decreased by {significant(-value, 4)} in a section: not known there"
        return {name: value for name, value in counted.items() if value >= 0}

    @staticmethod
    def _read(queries: list[Query[float]]) -> dict[str, float]:
        read = {query.name: query.ask() for query in queries}
        return {name: value for name, value in read.items() if value is not None}


def violation_query(policy: str) -> str:
    """Name of the query for one of :data:`ttt_mlflow.names.VIOLATION_POLICIES`."""
    return f"violation_{policy}"

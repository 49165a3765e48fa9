"""One NVML query, with its availability and cost."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Generic, TypeVar

from ttt_mlflow.telemetry.nvml import Device, refusals

T = TypeVar("T")
Spelling = tuple[str, Callable[[], T]]  # the device that answers, and the call


class Query(Generic[T]):
    """A query with one or several spellings, the preferred one first.

    name: as in ``refused`` and queries.csv.
    covers: the time span that an answer covers, in words.
    of: the device that answers: GPU or, in a run on a MIG instance, instance or parent GPU; empty if refused.
    refused: why the query is not made (any more); None while it is answered.
    calls, mean_us, max_us: number of answers after the first, and their cost in µs. The first call chooses the spelling
    and also looks up the function in the library, so it is not counted.
    """

    def __init__(self, nvml: ModuleType, name: str, covers: str, spellings: Sequence[Spelling[T]]) -> None:
        self.name, self.covers, self.of = name, covers, ""
        self.refused: str | None = None
        self.calls = 0
        self.max_us: float | None = None
        self._total_us = 0.0
        self._errors = refusals(nvml)
        # the last one: this version of nvidia-ml-py does not have the function
        lacking: tuple[type[Exception], ...] = (*self._errors, AttributeError)
        for of, call in spellings:
            try:
                call()
            except lacking as error:
                self.refused = str(error)
            else:
                self.of, self._call, self.refused = of, call, None
                break

    @property
    def mean_us(self) -> float | None:
        return self._total_us / self.calls if self.calls else None

    def ask(self) -> T | None:
        """The answer; None if refused. A refused query is not made again."""
        if self.refused is not None:
            return None
        began = time.perf_counter()
        try:
            answer = self._call()
        except self._errors as error:
            self.refused = f"stopped answering after {self.calls} answers: {error}"
            return None
        cost_us = 1e6 * (time.perf_counter() - began)
        self.calls += 1
        self._total_us += cost_us
        self.max_us = max(cost_us, self.max_us or 0.0)
        return answer

    def row(self) -> dict[str, object]:
        """The query's row in queries.csv."""
        return {
            "query": self.name,
            "of": self.of,
            "calls": self.calls,
            "mean_us": self.mean_us,
            "max_us": self.max_us,
            "covers": self.covers,
            "refused": self.refused,
        }


def of_either(device: Device, *functions: Callable[[Any], T]) -> list[Spelling[T]]:
    """Spellings that query the device and, if a MIG instance refuses all of them, its parent GPU."""
    return [(of, partial(function, handle)) for of, handle in device.handles for function in functions]


def of_itself(device: Device, *functions: Callable[[Any], T]) -> list[Spelling[T]]:
    """Spellings that query only the device, because the parent GPU's answer would include other instances."""
    return [(device.own_name, partial(function, device.handle)) for function in functions]

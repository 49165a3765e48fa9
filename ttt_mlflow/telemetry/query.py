"""One question to NVML: asked as long as it is answered, with what its answers cost."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Generic, TypeVar

from ttt_mlflow.telemetry.nvml import Device, refusals

T = TypeVar("T")
Spelling = tuple[str, Callable[[], T]]  # whose the answer is, and the call


class Query(Generic[T]):
    """A question in one or several spellings, the preferred one first.

    name: as in ``refused`` and queries.csv.
    covers: what span an answer stands for, in words.
    of: whose the answers are: card, or of a MIG run instance or parent card; empty where it is refused.
    refused: why it is not asked (any more); None while it is answered.
    calls, mean_us, max_us: answers since the first, and their cost in µs. The first one chooses the spelling, pays for
    finding the function in the library, and is not counted.
    """

    def __init__(self, nvml: ModuleType, name: str, covers: str, spellings: Sequence[Spelling[T]]) -> None:
        self.name, self.covers, self.of = name, covers, ""
        self.refused: str | None = None
        self.calls = 0
        self.max_us: float | None = None
        self._total_us = 0.0
        self._errors = refusals(nvml)
        # the last: this nvidia-ml-py does not have the function
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
        """The answer; None where it is refused. A question that is refused is not asked again."""
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
        """Its row of queries.csv."""
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
    """Spellings that ask the device and, where a MIG instance refuses them all, its card."""
    return [(of, partial(function, handle)) for of, handle in device.handles for function in functions]


def of_itself(device: Device, *functions: Callable[[Any], T]) -> list[Spelling[T]]:
    """Spellings that ask the device alone, where the card's answer would be about other instances too."""
    return [(device.own_name, partial(function, device.handle)) for function in functions]

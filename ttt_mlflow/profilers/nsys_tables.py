"""Reads the tables that ``nsys stats`` prints as CSV."""

import csv
import io
from dataclasses import dataclass

from ttt_mlflow.errors import RunFailed

TOTAL, CALLS, NAME = "Total Time (ns)", "Instances", "Name"  # columns of cuda_gpu_kern_sum


@dataclass(frozen=True)
class KernelTime:
    """All calls of one kernel in a recording. share_pct: of the time of all kernels."""

    name: str
    calls: int
    total_ns: float
    share_pct: float


def read_kernel_summary(text: str) -> list[KernelTime]:
    """The kernels of the table ``cuda_gpu_kern_sum``, the most expensive first. Raises RunFailed for another table.

    The shares are computed from the times, because nsys prints them with one decimal.
    """
    try:
        rows = [(row[NAME], int(row[CALLS]), float(row[TOTAL])) for row in csv.DictReader(io.StringIO(text))]
    except (KeyError, TypeError, ValueError) as error:
        raise RunFailed(
            f"profile=nsys: its table of kernels cannot be read ({type(error).__name__}: {error})"
        ) from None
    total = sum(ns for _, _, ns in rows)
    found = [KernelTime(name, calls, ns, 100 * ns / total if total else 0.0) for name, calls, ns in rows]
    return sorted(found, key=lambda kernel: -kernel.total_ns)

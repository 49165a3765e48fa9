"""The kernels of a profile as an MLflow table, which MLflow's UI shows side by side for several runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

# MLflow compares the second column of several runs unless a person chooses another
COLUMNS = ("kernel", "us_per_step", "share_pct", "calls", "part")
DIGITS = 6  # significant; MLflow shows all digits that it gets


@dataclass(frozen=True)
class ProfiledKernel:
    """One kernel of one part. calls and us: per step (in prefill mode, per prompt). part: None if it is not known."""

    kernel: str
    part: str | None
    calls: float
    us: float
    share_pct: float


def kernels_json(kernels: Sequence[ProfiledKernel]) -> str:
    """The file that MLflow's ``log_table`` would write."""
    rows = [[one.kernel, _short(one.us), _short(one.share_pct), _short(one.calls), one.part or ""] for one in kernels]
    return json.dumps({"columns": list(COLUMNS), "data": rows})


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

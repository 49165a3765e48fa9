"""Statistics of a trace's steps: time by kernel and part, and the GPU's idle time."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from ttt_mlflow.profilers.trace import UNKNOWN, Steps
from ttt_mlflow.workload import PARTS


@dataclass(frozen=True)
class PartRoofline:
    """The roofline of a part of a step: minimum bytes, and ms at the GPU's ceilings. None: not known."""

    min_bytes: float | None = None
    floor_ms: float | None = None


@dataclass(frozen=True)
class KernelRow:
    """One kernel (on a CPU, operator) of one part; see docs/profiles.md. Unknown values of the part are None."""

    name: str
    part: str
    calls: int
    ms_per_step: float
    total_ms: float
    mean_us: float
    share_pct: float
    part_min_bytes: float | None
    part_roofline_pct: float | None


@dataclass(frozen=True)
class PartRow:
    """The time of one part."""

    part: str
    calls: int
    ms_per_step: float
    share_pct: float
    min_bytes: float | None
    floor_ms: float | None
    roofline_pct: float | None


@dataclass(frozen=True)
class StepProfile:
    """Means over the profiled steps. ``busy_ms`` and ``idle_ms`` add up to ``step_ms``.

    ``idle_ms`` is the time in which nothing ran: on a GPU between kernels, on a CPU outside PyTorch's operators.
    """

    device: str
    steps: int
    step_ms: float
    busy_ms: float
    idle_ms: float
    host_ms: float | None  # time in which the host launched a step; GPU only
    launch_gap_us: float | None


def profile_of(steps: Steps) -> StepProfile:
    """The times of a trace with at least one step."""
    count = steps.count
    step_ms, busy_ms = steps.total_us / count / 1e3, steps.busy_us / count / 1e3
    gaps = steps.gaps_us if steps.on_gpu else []
    return StepProfile(
        device="cuda" if steps.on_gpu else "cpu",
        steps=count,
        step_ms=step_ms,
        busy_ms=busy_ms,
        idle_ms=max(0.0, step_ms - busy_ms),
        host_ms=float(np.mean(steps.host_us)) / 1e3 if steps.on_gpu else None,
        launch_gap_us=float(np.mean(gaps)) if gaps else None,
    )


def part_table(steps: Steps, rooflines: Mapping[str, PartRoofline]) -> list[PartRow]:
    """One row for each part, in the order of the roofline's parts. ``rooflines``: the known rooflines of the parts."""
    calls: dict[str, int] = defaultdict(int)
    spent_us: dict[str, float] = defaultdict(float)
    for one in steps.activities:
        calls[one.part] += 1
        spent_us[one.part] += one.own_us
    rows = []
    for part in (*PARTS, UNKNOWN):
        if not calls[part]:
            continue
        roofline, ms = rooflines.get(part, PartRoofline()), spent_us[part] / steps.count / 1e3
        pct = 100 * roofline.floor_ms / ms if roofline.floor_ms is not None and ms else None
        share = _share(spent_us[part], steps)
        rows.append(PartRow(part, calls[part], ms, share, roofline.min_bytes, roofline.floor_ms, pct))
    return rows


def kernel_table(steps: Steps, parts: Sequence[PartRow]) -> list[KernelRow]:
    """One row for each kernel name and part, the most expensive first."""
    known = {row.part: row for row in parts}
    spent_us: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in steps.activities:
        spent_us[one.name, one.part].append(one.own_us)
    rows = [
        KernelRow(
            name,
            part,
            calls=len(times),
            ms_per_step=sum(times) / steps.count / 1e3,
            total_ms=sum(times) / 1e3,
            mean_us=sum(times) / len(times),
            share_pct=_share(sum(times), steps),
            part_min_bytes=known[part].min_bytes,
            part_roofline_pct=known[part].roofline_pct,
        )
        for (name, part), times in spent_us.items()
    ]
    return sorted(rows, key=lambda row: -row.total_ms)


def table_csv(rows: Sequence[KernelRow] | Sequence[PartRow]) -> str:
    """The rows as CSV. An unknown value is an empty cell."""
    return str(pd.DataFrame([asdict(row) for row in rows]).to_csv(index=False))


def _share(us: float, steps: Steps) -> float:
    return 100 * us / steps.busy_us if steps.busy_us else 0.0

"""What a trace's steps say: time by kernel and part, and where the GPU waited."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from ttt_mlflow.profilers.trace import UNKNOWN, Steps
from ttt_mlflow.workload import PARTS


@dataclass(frozen=True)
class PartFloor:
    """What a part of a step cannot do without: bytes, and ms at the card's ceilings; None: not known."""

    min_bytes: float | None = None
    floor_ms: float | None = None


@dataclass(frozen=True)
class KernelRow:
    """One kernel (on a CPU: operator) of one part; see docs/profiles.md. Of the part what is known, otherwise None."""

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
    """The same time by part."""

    part: str
    calls: int
    ms_per_step: float
    share_pct: float
    min_bytes: float | None
    floor_ms: float | None
    roofline_pct: float | None


@dataclass(frozen=True)
class StepProfile:
    """Means over the profiled steps; ``busy_ms`` and ``idle_ms`` add up to ``step_ms``.

    ``idle_ms`` is the time in which nothing ran: on a GPU between kernels, on a CPU outside PyTorch's operators.
    """

    device: str
    steps: int
    step_ms: float
    busy_ms: float
    idle_ms: float
    host_ms: float | None  # what the host took to launch a step; a GPU's
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


def part_table(steps: Steps, floors: Mapping[str, PartFloor]) -> list[PartRow]:
    """A row a part, in the order of the roofline's; ``floors``: what is known of the parts of a step."""
    calls: dict[str, int] = defaultdict(int)
    spent_us: dict[str, float] = defaultdict(float)
    for one in steps.activities:
        calls[one.part] += 1
        spent_us[one.part] += one.own_us
    rows = []
    for part in (*PARTS, UNKNOWN):
        if not calls[part]:
            continue
        floor, ms = floors.get(part, PartFloor()), spent_us[part] / steps.count / 1e3
        pct = 100 * floor.floor_ms / ms if floor.floor_ms is not None and ms else None
        share = _share(spent_us[part], steps)
        rows.append(PartRow(part, calls[part], ms, share, floor.min_bytes, floor.floor_ms, pct))
    return rows


def kernel_table(steps: Steps, parts: Sequence[PartRow]) -> list[KernelRow]:
    """A row a name and part, the most expensive first."""
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
    """The rows as CSV; what is not known is an empty cell."""
    return str(pd.DataFrame([asdict(row) for row in rows]).to_csv(index=False))


def _share(us: float, steps: Steps) -> float:
    return 100 * us / steps.busy_us if steps.busy_us else 0.0

"""Waits until the GPU is quiet and cool, before a disturbed measurement is repeated."""

import time
from collections.abc import Callable, Mapping, Sequence

from ttt_mlflow.names import CLOCK_EVENT_REASONS

LOOK_BACK_S = 3.0  # the GPU must have been quiet for this long
MOST_S = 120.0  # maximum waiting time before each attempt
POLL_S = 0.25
COOLING_C = 1.0  # a GPU that cools by more than this in LOOK_BACK_S is not cool yet
UNREST = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
UNREST_MASK = sum(1 << CLOCK_EVENT_REASONS.index(reason) for reason in UNREST)

Rows = Sequence[Mapping[str, float]]


def unrest(rows: Rows) -> list[str]:
    """Why the GPU is not quiet, from samples during which this process was idle. Empty if it is quiet.

    A utilization above 0 therefore belongs to another process.
    """
    if not rows:
        return ["no samples"]
    found = []
    busy = max((row.get("gpu_utilization_pct", 0.0) for row in rows), default=0.0)
    if busy > 0:
        found.append(f"another process uses the GPU ({busy:.0f} %)")
    masks = [int(row["clock_event_reasons"]) & UNREST_MASK for row in rows if "clock_event_reasons" in row]
    named = [reason for reason in UNREST if any(mask & (1 << CLOCK_EVENT_REASONS.index(reason)) for mask in masks)]
    found += named
    degrees = [row["temperature_c"] for row in rows if "temperature_c" in row]
    if degrees and degrees[0] - degrees[-1] > COOLING_C:
        found.append(f"still cooling ({degrees[-1]:.0f} °C)")
    return found


def wait_until_quiet(
    samples: Rows,
    tell: Callable[[str], object],
    now_ns: Callable[[], int],
    most_s: float = MOST_S,
    look_back_s: float = LOOK_BACK_S,
    sleep: Callable[[float], object] = time.sleep,
) -> list[str]:
    """Wait until the live ``samples`` show LOOK_BACK_S of quiet, at most ``most_s``. Returns the remaining obstacles.

    samples: rows with time_ns, to which another thread appends. tell: called at every check with the obstacles; an
    exception from it ends the waiting. now_ns: the clock of the samples. The caller must keep the GPU idle.
    """
    began_ns = now_ns()
    while True:
        waited_s = (now_ns() - began_ns) / 1e9
        since_ns = max(began_ns, now_ns() - int(look_back_s * 1e9))
        reasons = unrest([row for row in samples[-1000:] if row["time_ns"] >= since_ns])
        if (waited_s >= look_back_s and not reasons) or waited_s >= most_s:
            return reasons
        tell(f"{'; '.join(reasons) or 'quiet'}, for {waited_s:.0f} s")
        sleep(POLL_S)

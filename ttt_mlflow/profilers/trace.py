"""Reads a trace of PyTorch's profiler (Chrome's format): the activities of each step and their named ranges.

On a GPU, an activity is a kernel, a copy or a fill. Its ranges are those around its launch on the host; a correlation
number links the two. All kernels of a replayed CUDA graph have the number of the graph's launch, so only their step is
known from it. On a CPU, an activity is an operator.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ttt_mlflow.workload import LAYER, PARTS, STEP

UNKNOWN = "unknown"  # the part of activities outside any range that names a part
GPU_ACTIVITIES = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")
OPERATOR, RANGE = "cpu_op", "user_annotation"
COMPILED_GRAPH = re.compile(r"^## Call CompiledFxGraph \S+ ##$")  # contains a hash that differs between runs
FILL = re.compile(r"^Memset \(\w+\)$")  # contains the kind of memory, which is missing in a CUDA graph


@dataclass(frozen=True)
class Activity:
    """Times in µs on the trace's clock.

    ``own_us``: on a GPU, the time in which no activity that began earlier still ran, so that overlapping activities are
    counted once. On a CPU, the time outside the operators that it called. The sum is the time in which anything ran.
    """

    name: str
    lane: str  # the GPU's stream, or the host's thread
    begin_us: float
    end_us: float
    step: int
    layer: int | None = None
    part: str = UNKNOWN
    own_us: float = 0.0


@dataclass(frozen=True)
class Steps:
    """The steps of one trace: the activities in the order of their start, and each step's time on the host in µs."""

    on_gpu: bool
    activities: list[Activity] = field(default_factory=list)
    host_us: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.host_us)

    def of_step(self, step: int) -> list[Activity]:
        return [activity for activity in self.activities if activity.step == step]

    @property
    def total_us(self) -> float:
        """Time of all steps together; on a GPU, from the start of the first activity to the end of the last."""
        if not self.on_gpu:
            return sum(self.host_us)
        if not self.activities:
            return 0.0
        return max(activity.end_us for activity in self.activities) - self.activities[0].begin_us

    @property
    def busy_us(self) -> float:
        """The time in which anything ran, of all steps together."""
        return sum(activity.own_us for activity in self.activities)

    @property
    def gaps_us(self) -> list[float]:
        """The time from the end of all earlier activities to the start of each next one; 0 where they overlap."""
        gaps, latest = [], None
        for activity in self.activities:
            if latest is not None:
                gaps.append(max(0.0, activity.begin_us - latest))
            latest = activity.end_us if latest is None else max(latest, activity.end_us)
        return gaps


def read_steps(trace: Mapping[str, Any], on_gpu: bool) -> Steps:
    """The activities of the ranges ``step 0``, ``step 1``, … of a trace. Activities outside these are left out."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    ranges = _Ranges(event for event in events if event.get("cat") == RANGE)
    steps = {_number(event["name"], STEP): event["dur"] for event in ranges.events}
    host_us = [float(steps[index]) for index in sorted(index for index in steps if index is not None)]
    found = _gpu_activities(events, ranges) if on_gpu else _operators(events, ranges)
    return Steps(on_gpu, found, host_us)


def _gpu_activities(events: list[Any], ranges: "_Ranges") -> list[Activity]:
    launches = {
        event["args"]["correlation"]: event
        for event in events
        if event.get("cat") in LAUNCHES and "correlation" in event.get("args", {})
    }
    found = []
    for event in events:
        if event.get("cat") in GPU_ACTIVITIES:
            launch = launches.get(event["args"].get("correlation"))
            place = ranges.at_launch(launch) if launch else None
            if place and place.step is not None:
                found.append(_activity(event, f"stream {event['args'].get('stream', event['tid'])}", place))
    found.sort(key=lambda activity: activity.begin_us)
    latest, timed = float("-inf"), []
    for activity in found:
        timed.append(replace(activity, own_us=max(0.0, activity.end_us - max(activity.begin_us, latest))))
        latest = max(latest, activity.end_us)
    return timed


def _operators(events: list[Any], ranges: "_Ranges") -> list[Activity]:
    operators = sorted(
        (event for event in events if event.get("cat") == OPERATOR), key=lambda event: (event["ts"], -event["dur"])
    )
    found: list[Activity] = []
    inside: dict[Any, list[int]] = {}  # thread -> the running operators, as indices into ``found``
    for event in operators:
        place = ranges.at(event)
        if place.step is None:
            continue
        running = inside.setdefault(event["tid"], [])
        while running and found[running[-1]].end_us <= event["ts"]:
            running.pop()
        if running:
            caller = found[running[-1]]
            found[running[-1]] = replace(caller, own_us=caller.own_us - event["dur"])
        running.append(len(found))
        found.append(replace(_activity(event, f"thread {event['tid']}", place), own_us=float(event["dur"])))
    return found


@dataclass(frozen=True)
class _Place:
    step: int | None = None
    layer: int | None = None
    part: str = UNKNOWN


class _Ranges:
    """The named ranges of a trace, by host thread."""

    def __init__(self, events: Iterable[Any]) -> None:
        self.events = sorted(events, key=lambda event: (event["ts"], -event["dur"]))
        self._begins: dict[Any, list[float]] = {}
        self._places: dict[Any, list[_Place]] = {}  # each is valid from the time with the same index
        by_thread: dict[Any, list[Any]] = {}
        for event in self.events:
            by_thread.setdefault(event["tid"], []).append(event)
        for thread, own in by_thread.items():
            self._begins[thread], self._places[thread] = _places(own)

        self._steps_thread = next((one["tid"] for one in self.events if _number(one["name"], STEP) is not None), None)

    def at(self, event: Any) -> _Place:
        """The innermost ranges of each kind around the start of ``event``, on its thread."""
        return self._at(event["tid"], event["ts"])

    def at_launch(self, event: Any) -> _Place:
        """The same for a launch.

        A launch on a thread without ranges, or with another thread number in the trace, belongs to the ranges of the
        steps' thread.
        """
        return self._at(event["tid"] if event["tid"] in self._begins else self._steps_thread, event["ts"])

    def _at(self, thread: Any, time: float) -> _Place:
        index = bisect_right(self._begins.get(thread, []), time) - 1
        return self._places[thread][index] if index >= 0 else _Place()


def _places(ranges: list[Any]) -> tuple[list[float], list[_Place]]:
    """The place of each interval between two edges of nested ``ranges``."""
    edges = [(event["ts"], 1, index) for index, event in enumerate(ranges)]
    edges += [(event["ts"] + event["dur"], 0, index) for index, event in enumerate(ranges)]
    begins, places, open_ranges = [], [], []
    for time, opens, index in sorted(edges):
        if opens:
            open_ranges.append(index)
        else:
            open_ranges.remove(index)
        begins.append(time)
        places.append(_place(ranges[index]["name"] for index in open_ranges))
    return begins, places


def _place(names: Iterable[str]) -> _Place:
    place = _Place()
    for name in names:
        step, layer = _number(name, STEP), _number(name, LAYER)
        if step is not None:
            place = replace(place, step=step)
        elif layer is not None:
            place = replace(place, layer=layer)
        elif name in PARTS:
            place = replace(place, part=name)
    return place


def _activity(event: Any, lane: str, place: _Place) -> Activity:
    assert place.step is not None
    end_us = event["ts"] + event["dur"]
    name = FILL.sub("Memset", COMPILED_GRAPH.sub("compiled graph", event["name"]))
    return Activity(name, lane, event["ts"], end_us, place.step, place.layer, place.part)


def _number(name: str, prefix: str) -> int | None:
    """7 for ``layer 7``; None for another name."""
    rest = name.removeprefix(prefix)
    return int(rest) if rest != name and rest.isdigit() else None

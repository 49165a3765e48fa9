"""The pictures of a profile: the kernels with the most time, and one step as a timeline by stream."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ttt_mlflow.numerals import significant
from ttt_mlflow.profilers.step_profile import KernelRow
from ttt_mlflow.profilers.trace import UNKNOWN, Activity
from ttt_mlflow.report.style import COLORS, GRAY, figure_png
from ttt_mlflow.workload import PARTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = 15
LABEL_LENGTH = 60
PART_COLORS = {part: COLORS[index % len(COLORS)] for index, part in enumerate(PARTS)} | {UNKNOWN: GRAY}


def kernels_png(kernels: Sequence[KernelRow], title: str) -> bytes:
    """Bars in ms per step, colored by part, the longest on top."""
    from matplotlib.figure import Figure

    top = kernels[:TOP]
    figure = Figure(figsize=(11, 1.6 + 0.32 * max(len(top), 3)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(top):
        axes.barh(place, row.ms_per_step, color=PART_COLORS[row.part])
        axes.annotate(
            f" {significant(row.ms_per_step, 3)} ms, {row.share_pct:.1f} %", (row.ms_per_step, place), va="center"
        )
    axes.set_yticks(range(len(top)), [_label(row.name) for row in top], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("ms per step")
    axes.set_title(title, loc="left")
    _legend(figure, [row.part for row in top], columns=4)
    return figure_png(figure)


def timeline_png(activities: Sequence[Activity], title: str) -> bytes:
    """One step: a lane for each stream (on a CPU, thread), with each activity as a bar in the color of its part."""
    from matplotlib.figure import Figure

    lanes = list(dict.fromkeys(one.lane for one in activities))
    begin = min((one.begin_us for one in activities), default=0.0)
    figure = Figure(figsize=(14, 2.2 + 0.6 * len(lanes)), layout="constrained")
    axes = figure.subplots()
    for place, lane in enumerate(lanes):
        own = [one for one in activities if one.lane == lane]
        axes.broken_barh(
            [((one.begin_us - begin) / 1e3, (one.end_us - one.begin_us) / 1e3) for one in own],
            (place - 0.4, 0.8),
            facecolors=[PART_COLORS[one.part] for one in own],
        )
    axes.set_yticks(range(len(lanes)), lanes)
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.set_title(title, loc="left")
    _legend(figure, [one.part for one in activities], columns=len(PART_COLORS))
    return figure_png(figure)


def _legend(figure: "Figure", parts: Sequence[str], columns: int) -> None:
    from matplotlib.patches import Patch

    shown = [part for part in PART_COLORS if part in set(parts)]
    handles = [Patch(color=PART_COLORS[part], label=part) for part in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _label(name: str) -> str:
    return name if len(name) <= LABEL_LENGTH else f"{name[: LABEL_LENGTH - 1]}…"

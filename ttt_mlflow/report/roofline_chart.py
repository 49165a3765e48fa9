"""The chart of a roofline: the time of each part of a step at the GPU's ceilings, next to the measured step."""

import csv
import io
from collections.abc import Sequence

from ttt_mlflow.measurement.roofline import PartWork
from ttt_mlflow.numerals import significant
from ttt_mlflow.report.style import COLORS, GRAY
from ttt_mlflow.workload import PARTS

ROOFLINE_ROW, MEASURED_ROW = 0, 1
LABELED_SHARE = 0.06  # of the longer bar; the numbers of narrower parts are only in the legend


def parts_csv(parts: Sequence[PartWork]) -> str:
    """One row for each part: part, bytes, flops, floor_ms (empty if the GPU's ceilings are not known)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", "bytes", "flops", "floor_ms"])
    for part in parts:
        writer.writerow([part.part, part.bytes, part.flops, "" if part.milliseconds is None else part.milliseconds])
    return text.getvalue()


def roofline_png(parts: Sequence[PartWork], measured_ms: float, title: str) -> bytes:
    """Two bars on one axis of milliseconds: the roofline time by part, and the mean measured step."""
    # a Figure needs no display and no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    timed = [(part.part, part.milliseconds) for part in parts if part.milliseconds is not None]
    total = sum(ms for _, ms in timed)
    left = 0.0
    for name, ms in timed:
        axes.barh(
            ROOFLINE_ROW,
            ms,
            left=left,
            color=COLORS[PARTS.index(name) % len(COLORS)],
            label=f"{name}: {significant(ms, 3)} ms",
        )
        if ms > LABELED_SHARE * max(total, measured_ms):
            axes.text(left + ms / 2, ROOFLINE_ROW, significant(ms, 3), ha="center", va="center", color="white")
        left += ms
    measured = significant(measured_ms, 3)
    axes.barh(MEASURED_ROW, measured_ms, color=GRAY, label=f"measured: {measured} ms")
    axes.text(measured_ms / 2, MEASURED_ROW, measured, ha="center", va="center", color="white")
    axes.set_yticks([ROOFLINE_ROW, MEASURED_ROW], ["roofline", "measured"])
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.set_title(f"{title}: {100 * total / measured_ms:.1f} % of the roofline")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()

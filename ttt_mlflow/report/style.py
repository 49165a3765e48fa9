"""Colors, and writing a figure to a file, for all charts."""

import io
from typing import TYPE_CHECKING

from ttt_mlflow.profilers.trace import UNKNOWN
from ttt_mlflow.workload import PARTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#1f6fb4", "#c8553d", "#3a8f5c", "#7a5195", "#b8860b", "#4d9fb0", "#d45087", "#6b6b6b")
GRAY = "#8a8f98"

PART_COLORS = {part: COLORS[index % len(COLORS)] for index, part in enumerate(PARTS)} | {UNKNOWN: GRAY}


def figure_png(figure: "Figure") -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()

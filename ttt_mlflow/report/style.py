"""Colors, and writing a figure to a file, for all charts."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#1f6fb4", "#c8553d", "#3a8f5c", "#7a5195", "#b8860b", "#4d9fb0", "#d45087", "#6b6b6b")
GRAY = "#8a8f98"
# Okabe and Ito's colors without the yellow and the black, which the two backgrounds hide, and a brown. People who see
# fewer colors tell them apart by lightness; a marker of its own for each says the same without color.
SAFE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # matplotlib's names
GLYPHS = "●■▲◆▼✚✖★"  # of a text
PLOTLY_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
DASHES = ("-", "--", ":", "-.")
PLOTLY_DASHES = ("solid", "dash", "dot", "dashdot")


def figure_png(figure: "Figure") -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def figure_svg(figure: "Figure") -> bytes:
    """The figure as SVG, the same bytes for the same figure. Its texts are texts, in a font of the reader's."""
    import matplotlib as mpl

    picture = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ttt-mlflow"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()

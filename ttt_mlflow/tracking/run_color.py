"""The color of a run in MLflow's table and charts: one for each model and inner net, gray for what is not valid."""

import colorsys
import hashlib
from collections.abc import Mapping

from ttt_mlflow import names
from ttt_mlflow.config import SweepConfig

RUN_COLOR = "mlflow.runColor"  # MLflow's own tag
NOT_VALID = "not valid"
GRAY = "#b0b0b0"

# The hue, 0 to 1, tells inner nets apart; a model without one has that of its family. Those that are compared most are
# given here, far apart. Others get a hue from their name.
HUES = {
    "mlp_1_dual_triton": 0.58,  # blue
    "mlp_2_dual_triton": 0.07,  # orange
    "mlp_1_dual": 0.50,  # cyan
    "mlp_2_dual": 0.95,  # pink
    "state-spaces/mamba": 0.37,  # green
    "state-spaces/mamba2": 0.20,  # lime
    "gated-deltanet": 0.76,  # violet
    "rwkv7": 0.86,  # magenta
    "transformer": 0.0,  # red
    "transformer-1b": 0.46,  # teal, of transformer-1b-gqa4
}
# The lightness, 0 to 1, tells the models of one hue apart.
LIGHTNESS = {
    "ttt-tiny": 0.24,
    "ttt-profile": 0.30,
    "ttt-1b": 0.42,
    "ttt-760m": 0.50,
    "ttt-350m": 0.58,
    "ttt-125m": 0.66,
    "state-spaces/mamba-1.4b": 0.36,
    "transformer-1b": 0.50,
    "transformer-1b-gqa4": 0.26,
}
LIGHTEST, DARKEST = 0.65, 0.30
SATURATION = 0.75


def series_of(params: Mapping[str, str], tags: Mapping[str, str]) -> str | None:
    """What the color of a run stands for. None for a run without one model: a micro-benchmark, a sweep.

    params, tags: the run's, with its status and verdict.
    """
    if "model_name" not in params or tags.get(names.TAG_KIND.name) == SweepConfig.entry_point:
        return None
    if tags.get(names.TAG_VERDICT.name) != "valid" or tags.get(names.TAG_STATUS.name, "ok") != "ok":
        return NOT_VALID
    return " ".join(params[name] for name in ("model_name", "inner_net") if name in params)


def color_of(series: str) -> str:
    """The color of a series as ``#rrggbb``. It depends on nothing else, so it is the same on every host."""
    if series == NOT_VALID:
        return GRAY
    model, _, inner_net = series.partition(" ")
    kind = inner_net or model.rpartition("-")[0] or model
    hue = HUES.get(kind, _fraction(kind))
    lightness = LIGHTNESS.get(model, DARKEST + (LIGHTEST - DARKEST) * _fraction(model))
    channels = colorsys.hls_to_rgb(hue, lightness, SATURATION)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def _fraction(text: str) -> float:
    """A number from 0 to below 1 that ``text`` determines."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32

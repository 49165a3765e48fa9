"""What the parameters of a run determine. Runs of version 0.1 did not record it."""

from collections.abc import Mapping

from ttt_mlflow.names import BATCH, GENLEN, PROMPTLEN

MOST_DIGITS = 15  # of a whole number that a float holds exactly
# metrics that repeat a parameter as a number; a prefill run decodes nothing
SIZES = {"decode": (BATCH, PROMPTLEN, GENLEN), "prefill": (BATCH, PROMPTLEN)}


def sizes(kind: str, params: Mapping[str, str]) -> dict[str, float]:
    """The sizes of a run of this kind as numbers, by metric name. A parameter that is no number is left out."""
    found = {metric.name: whole_number(params.get(metric.name, "")) for metric in SIZES.get(kind, ())}
    return {name: float(value) for name, value in found.items() if value is not None}


def whole_number(text: str) -> int | None:
    """The number of a parameter's text, which another program may have written; None for another text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None

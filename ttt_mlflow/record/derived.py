"""What the parameters of a run determine. Runs of version 0.1 did not record it."""

from collections.abc import Mapping

from ttt_mlflow.names import BATCH, GENLEN, PROMPTLEN

# metrics that repeat a parameter as a number; a prefill run decodes nothing
SIZES = {"decode": (BATCH, PROMPTLEN, GENLEN), "prefill": (BATCH, PROMPTLEN)}


def sizes(kind: str, params: Mapping[str, str]) -> dict[str, float]:
    """The sizes of a run of this kind as numbers, by metric name. A parameter that is no number is left out."""
    texts = {metric.name: params.get(metric.name, "") for metric in SIZES.get(kind, ())}
    return {name: float(text) for name, text in texts.items() if text.isascii() and text.isdecimal()}

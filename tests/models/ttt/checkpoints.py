"""Writes checkpoints as the published ones are, for the tests that read them."""

from pathlib import Path

from safetensors.torch import save_file

from ttt_mlflow.models.ttt.model import TTTModel


def save_checkpoint(model: TTTModel, file: Path) -> None:
    """Write ``model``'s weights under the published names, in safetensors format."""
    weights = {name: weight.detach().clone().contiguous() for name, weight in model.named_parameters()}
    save_file(weights, file, metadata={"format": "pt"})

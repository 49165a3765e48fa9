"""Reads weights in safetensors format under the published names."""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.ttt.model import TTTModel

# not weights of this model: tied to the embeddings, or buffers that older versions of the published model saved
NOT_WEIGHTS = re.compile(r"^lm_head\.weight$|\.rotary_emb\.inv_freq$|\.token_idx$")
SHOWN = 8


def checkpoint_files(checkpoint: str) -> list[Path]:
    """The safetensors files of ``checkpoint`` (a file or a folder). BadInput if there is none."""
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise BadInput(f"checkpoint={checkpoint}: the folder has no *.safetensors file; give another folder")
        return files
    if not path.is_file():
        raise BadInput(f"checkpoint={checkpoint}: no such file or folder; give a safetensors file or a folder of them")
    return [path]


def read_shapes(checkpoint: str) -> dict[str, tuple[int, ...]]:
    """Shapes by name, read from the files' headers only. BadInput if a file is not in safetensors format."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in checkpoint_files(checkpoint):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a dict
                    if not NOT_WEIGHTS.search(name):
                        shapes[name] = tuple(weights.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise BadInput(
                f"checkpoint={checkpoint}: {file.name} is not a readable safetensors file ({error})"
            ) from None
    return shapes


def check_fit(checkpoint: str, expected: dict[str, tuple[int, ...]], model_name: str) -> None:
    """Raise BadInput with the missing, unexpected and misshapen weights unless the checkpoint fits."""
    found = read_shapes(checkpoint)
    faults = [
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
        (
            "of a different shape",
            [
                f"{name} {list(found[name])}, expected {list(shape)}"
                for name, shape in expected.items()
                if name in found and found[name] != shape
            ],
        ),
    ]
    lines = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' and more' if len(names) > SHOWN else ''}"
        for what, names in faults
        if names
    ]
    if lines:
        raise BadInput(f"checkpoint={checkpoint}: does not fit {model_name}; weights {'; '.join(lines)}")


def published_shapes(model: TTTModel) -> dict[str, tuple[int, ...]]:
    """The shapes of ``model``'s weights by their published names."""
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def load_checkpoint(model: TTTModel, checkpoint: str) -> None:
    """Load the published weights into ``model``, cast to its dtype. No weight may be missing or unexpected."""
    check_fit(checkpoint, published_shapes(model), "the model")
    weights = dict(model.named_parameters())
    for file in checkpoint_files(checkpoint):
        with safe_open(file, framework="pt") as saved:
            for name in saved.keys():  # noqa: SIM118 - not a dict
                if not NOT_WEIGHTS.search(name):
                    with torch.no_grad():
                        weights[name].copy_(saved.get_tensor(name))
    model.weights_changed()

"""Reads weights in safetensors format under the published names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ttt_mlflow.models.checkpoint_files import AGAIN, checkpoint_files, refusal
from ttt_mlflow.models.ttt.config import TTTConfig
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.published_config import EMBEDDINGS, config_of_checkpoint

# not weights of this model: tied to the embeddings, or buffers that older versions of the published model saved
NOT_WEIGHTS = re.compile(r"^lm_head\.weight$|\.rotary_emb\.inv_freq$|\.token_idx$")
FLOATS = ("F64", "F32", "BF16", "F16")
SHOWN = 8


@dataclass(frozen=True)
class Saved:
    """One weight of a checkpoint. name: in ``file``. dtype: as safetensors calls it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def read_weights(checkpoint: str) -> dict[str, Saved]:
    """The weights by their published names, read from the files' headers only.

    BadInput if a file is not in safetensors format, if two have a weight of one name, and for what is no float.
    """
    found: dict[str, Saved] = {}
    for file in checkpoint_files(checkpoint):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a dict
                    if name in found:
                        both = f"{found[name].file.name} and {file.name}"
                        raise refusal(checkpoint, f"{name} is in {both}; give a folder with one of them")
                    part = weights.get_slice(name)
                    found[name] = Saved(file, name, tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError, ValueError) as error:
            raise refusal(checkpoint, f"{file.name} is not a readable safetensors file ({error}); {AGAIN}") from None
    published = _published_names(found)
    weights_alone = {name: one for name, one in published.items() if not NOT_WEIGHTS.search(name)}
    if strange := [f"{name} {one.dtype}" for name, one in weights_alone.items() if one.dtype not in FLOATS]:
        shown = f"{', '.join(strange[:SHOWN])}{' and more' if len(strange) > SHOWN else ''}"
        raise refusal(checkpoint, f"these weights are not of {', '.join(FLOATS)}: {shown}; convert them")
    return weights_alone


def _published_names(found: Mapping[str, Saved]) -> dict[str, Saved]:
    """By published name: a wrapper such as ``torch.compile`` or DDP puts a prefix before all names."""
    embeddings = [name for name in found if name.endswith(EMBEDDINGS.removeprefix("model."))]
    if len(embeddings) != 1 or embeddings[0] == EMBEDDINGS:
        return dict(found)
    whole = embeddings[0].endswith(EMBEDDINGS)
    prefix = embeddings[0].removesuffix(EMBEDDINGS if whole else EMBEDDINGS.removeprefix("model."))
    head = "" if whole else "model."
    renamed = {
        f"{head}{name.removeprefix(prefix)}" if name.startswith(prefix) else name: one for name, one in found.items()
    }
    return renamed if len(renamed) == len(found) else dict(found)


def config_of_weights(checkpoint: str, standard: TTTConfig) -> TTTConfig:
    """``standard`` with the sizes of the checkpoint. Raises BadInput."""
    shapes = {name: one.shape for name, one in read_weights(checkpoint).items()}
    return config_of_checkpoint(checkpoint, standard, shapes)


def check_fit(checkpoint: str, expected: dict[str, tuple[int, ...]], model_name: str) -> None:
    """Raise BadInput with the missing, unexpected and misshapen weights unless the checkpoint fits."""
    found = {name: one.shape for name, one in read_weights(checkpoint).items()}
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
        raise refusal(checkpoint, f"does not fit {model_name}; weights {'; '.join(lines)}")


def published_shapes(model: TTTModel) -> dict[str, tuple[int, ...]]:
    """The shapes of ``model``'s weights by their published names."""
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def load_checkpoint(model: TTTModel, checkpoint: str) -> None:
    """Load the published weights into ``model``, cast to its dtype. No weight may be missing or unexpected.

    Beside the model, the host's memory has one weight at a time.
    """
    check_fit(checkpoint, published_shapes(model), "the model")
    weights = dict(model.named_parameters())
    for name, one in read_weights(checkpoint).items():
        # opened for each weight: a file that stays open keeps what was read of it in memory, beside the model
        with safe_open(one.file, framework="pt") as opened, torch.no_grad():
            weights[name].copy_(opened.get_tensor(one.name))
    model.weights_changed()

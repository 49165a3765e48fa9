"""The sizes of a checkpoint: what its ``config.json`` says, and the vocabulary that its embeddings have.

The names in the file are those of the published model's configuration (test-time-training/ttt-lm-pytorch, ttt.py).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.models.checkpoint_files import CONFIG, checkpoint_config, refusal
from ttt_mlflow.models.ttt.config import TTTConfig

EMBEDDINGS = "model.embed_tokens.weight"
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
# what the models of this package are, and their kernels compute
FIXED = {
    "hidden_act": "silu",
    "rms_norm_eps": NORM_EPS,
    "mini_batch_size": MINI_BATCH,
    "pre_conv": True,
    "conv_kernel": CONV_TAPS,
    "use_gate": True,
    "share_qk": True,
    "tie_word_embeddings": True,
}
MOST = 1 << 24  # of any size: a wrong one must not take the memory


def config_of_checkpoint(checkpoint: str, standard: TTTConfig, shapes: Mapping[str, tuple[int, ...]]) -> TTTConfig:
    """``standard`` with the sizes of the checkpoint. shapes: of its weights.

    Raises BadInput for a configuration that cannot be, or that is of another model than those of this package.
    """
    said = checkpoint_config(checkpoint)
    _check_kind(checkpoint, said, standard)
    sizes: dict[str, Any] = {
        ours: _size(checkpoint, theirs, said[theirs]) for theirs, ours in SIZES.items() if theirs in said
    }
    embeddings = shapes.get(EMBEDDINGS, ())
    if "vocab_size" not in sizes and len(embeddings) == 2 and 0 < embeddings[0] <= MOST:
        sizes["vocab_size"] = embeddings[0]
    found = replace(standard, **sizes, rope_theta=_theta(checkpoint, said.get("rope_theta", standard.rope_theta)))
    if found.hidden_size % (2 * found.num_heads):
        raise refusal(
            checkpoint,
            f"{CONFIG} has hidden_size={found.hidden_size}, which "
            f"num_attention_heads={found.num_heads} does not divide into an even number; correct it",
        )
    if "num_layers" in sizes and found.num_layers > len(shapes):
        raise refusal(
            checkpoint,
            f"{CONFIG} has num_hidden_layers={found.num_layers}, and the files have "
            f"{len(shapes)} weights in all; give the {CONFIG} of these files",
        )
    return found


def _check_kind(checkpoint: str, said: Mapping[str, Any], standard: TTTConfig) -> None:
    kind = said.get("ttt_layer_type", standard.layer_type)
    if kind != standard.layer_type:
        raise refusal(
            checkpoint,
            f"{CONFIG} has ttt_layer_type={kind!r}; this inner_net needs "
            f"{standard.layer_type!r}; give another inner_net",
        )
    wanted = FIXED | {"ttt_base_lr": standard.inner_layer.base_lr}
    faults = [
        f"{name}={said[name]!r} (here {value!r})" for name, value in wanted.items() if said.get(name, value) != value
    ]
    if faults:
        found = ", ".join(faults)
        raise refusal(checkpoint, f"{CONFIG} describes another model: {found}; give a TTT model")


def _size(checkpoint: str, name: str, value: object) -> int:
    if type(value) is not int or not 0 < value <= MOST:
        raise refusal(checkpoint, f"{CONFIG} has {name}={value!r}; it takes a whole number from 1 to {MOST}")
    return value


def _theta(checkpoint: str, value: object) -> float:
    if type(value) not in (int, float) or not 0 < value < float("inf"):  # type: ignore[operator]
        raise refusal(checkpoint, f"{CONFIG} has rope_theta={value!r}; it takes a number above 0")
    return float(value)  # type: ignore[arg-type]

"""flash-linear-attention: whether it is there, and its empty layers."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ttt_mlflow.models.installation import install_command, is_there

# module -> what pip installs, as in pyproject.toml. fla-core has fla.ops, flash-linear-attention fla.layers; einops and
# transformers come with them
REQUIREMENTS = {"fla": "flash-linear-attention>=0.6,<0.7", "transformers": "transformers>=5.6.2,<6", "einops": "einops"}
# A tuned kernel that is kept on disk was tuned with another batch: the keys of fla's tuning leave the batch out.
KEPT_TUNING = "FLA_CACHE_RESULTS"


def missing() -> str | None:
    """What must be installed before a model of flash-linear-attention can be built, in one line, or None."""
    absent = [module for module in REQUIREMENTS if not is_there(module)]
    if not absent:
        return None
    names = " and ".join(REQUIREMENTS[module].partition(">")[0] for module in absent)
    return f"{names} not installed: {install_command(REQUIREMENTS['fla'])}"


def block_classes(model: str) -> tuple[type, type]:
    """The configuration and the layer of fla's ``model``: ``gated_deltanet`` or ``rwkv7``."""
    from importlib import import_module

    os.environ[KEPT_TUNING] = "0"  # read while fla is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CPUs and of versions that this project does not use
        configurations = import_module(f"fla.models.{model}.configuration_{model}")
        layers = import_module(f"fla.models.{model}.modeling_{model}")
    prefix = {"gated_deltanet": "GatedDeltaNet", "rwkv7": "RWKV7"}[model]
    return getattr(configurations, f"{prefix}Config"), getattr(layers, f"{prefix}Block")


@contextmanager
def empty_layers() -> Iterator[None]:
    """Until the block ends, layers are made without memory and without initial values.

    RWKV-7's are computed element by element and with a QR decomposition of each matrix, which takes minutes.
    """
    from fla.layers import rwkv6, rwkv7
    from fla.models.rwkv7 import modeling_rwkv7

    owners: list[Any] = [rwkv6.LoRA, rwkv7.RWKV7Attention, modeling_rwkv7.RWKV7FeedForward]
    before = [owner._initialize_weights for owner in owners]
    for owner in owners:
        owner._initialize_weights = lambda self, module: None
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # RWKV7Attention warns that fla's RWKV-7 may differ from the official one
            yield
    finally:
        for owner, function in zip(owners, before, strict=True):
            owner._initialize_weights = function

"""The registry of kernels that can be timed alone. Each computes one decode step, or a prompt, of an inner net.

A kernel is registered here, or by another installed package under the entry point group ``ttt_mlflow.kernels``: an
entry point names a :class:`KernelEntry`, or a function that returns several. A kernel is imported only when it is
timed, so listing the kernels is fast.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels.inner_layers import INNER_LAYERS
from ttt_mlflow.plugins import Known, load_plugins
from ttt_mlflow.run.machine import missing_cxx_compiler

ENTRY_POINT_GROUP = "ttt_mlflow.kernels"
LAYER_TYPES = tuple(INNER_LAYERS)
FORMS = ("rank-1", "accumulating")
MODES = ("decode", "prefill")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")  # the name is part of metric names

# One decode step, or a prompt, with the signature of the functions in ttt_mlflow/kernels/*/reference.py.
Step = Callable[..., Any]


@dataclass(frozen=True)
class KernelEntry:
    """A kernel that can be timed.

    layer_type: ``linear`` or ``mlp``. It determines the state and the correct result.
    form: what is kept between the tokens of a mini-batch: ``rank-1`` keeps the tokens' vectors, ``accumulating`` keeps
    sums of the state's size. load: imports and returns the step. overlaps: the step accepts ``overlap=True``. Its
    launch may then begin before the previous kernel has ended, provided that the previous kernel does not write this
    step's state. missing: what must be installed first on a device (``cpu``, ``cuda``), in one line, or None.
    mode: ``decode`` for a step of one token, ``prefill`` for a prompt of any length. A prompt leaves the vectors of its
    last mini-batch behind, so the form of a prefill kernel is ``rank-1``.
    """

    name: str
    layer_type: str
    form: str
    load: Callable[[], Step]
    description: str
    needs_gpu: bool = False
    overlaps: bool = False
    missing: Callable[[str], str | None] = lambda device: None
    mode: str = "decode"

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"kernel {self.name!r}: a name consists of letters, digits and the characters _ . -; 100 at most"
            )
        for value, known in ((self.layer_type, LAYER_TYPES), (self.form, FORMS), (self.mode, MODES)):
            if value not in known:
                raise ValueError(f"kernel {self.name!r}: {value!r} is not one of {', '.join(known)}")
        if self.mode == "prefill" and (self.form != "rank-1" or self.overlaps):
            raise ValueError(f"kernel {self.name!r}: a prefill kernel has the form rank-1 and no launches that overlap")


# Kernels of this package


def _linear_triton() -> Step:
    from ttt_mlflow.kernels.ttt_linear.decode import linear_decode

    return linear_decode


def _mlp_triton() -> Step:
    from ttt_mlflow.kernels.ttt_mlp.decode import mlp_decode

    return mlp_decode


def _linear_accumulate_triton() -> Step:
    from ttt_mlflow.kernels.ttt_linear.accumulate import linear_accumulate

    return linear_accumulate


def _mlp_accumulate_triton() -> Step:
    from ttt_mlflow.kernels.ttt_mlp.accumulate import mlp_accumulate

    return mlp_accumulate


def _linear() -> Step:
    from ttt_mlflow.kernels.ttt_linear.reference import linear_decode

    return linear_decode


def _mlp() -> Step:
    from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode

    return mlp_decode


def _linear_prefill_triton() -> Step:
    from ttt_mlflow.kernels.ttt_linear.prefill import linear_prefill

    return linear_prefill


def _mlp_prefill_triton() -> Step:
    from ttt_mlflow.kernels.ttt_mlp.prefill import mlp_prefill

    return mlp_prefill


def _linear_prefill() -> Step:
    from ttt_mlflow.kernels.ttt_linear.reference import linear_prefill

    return linear_prefill


def _mlp_prefill() -> Step:
    from ttt_mlflow.kernels.ttt_mlp.reference import mlp_prefill

    return mlp_prefill


def _compiled(load: Callable[[], Step]) -> Callable[[], Step]:
    def load_compiled() -> Step:
        import torch
        import torch._dynamo

        torch.compiler.reset()
        # each batch is compiled separately; beyond the limit, fullgraph raises instead of running eagerly
        torch._dynamo.config.recompile_limit = 64
        return torch.compile(load(), dynamic=False, fullgraph=True)

    return load_compiled


def _missing_for_compiled(device: str) -> str | None:
    return missing_cxx_compiler() if device == "cpu" else None


OWN = (
    KernelEntry(
        "mlp_1_dual_triton", "linear", "rank-1", _linear_triton, "TTT-Linear, rank-1 form, Triton",
        needs_gpu=True, overlaps=True,
    ),
    KernelEntry(
        "mlp_1_accumulate_triton", "linear", "accumulating", _linear_accumulate_triton,
        "TTT-Linear, accumulating form, Triton", needs_gpu=True,
    ),
    KernelEntry("mlp_1_dual", "linear", "rank-1", _linear, "TTT-Linear, rank-1 form, eager PyTorch"),
    KernelEntry(
        "mlp_1_dual_compiled", "linear", "rank-1", _compiled(_linear), "TTT-Linear, rank-1 form, compiled PyTorch",
        missing=_missing_for_compiled,
    ),
    KernelEntry(
        "mlp_1_prefill_triton", "linear", "rank-1", _linear_prefill_triton, "TTT-Linear, prefill, Triton",
        needs_gpu=True, mode="prefill",
    ),
    KernelEntry(
        "mlp_1_prefill", "linear", "rank-1", _linear_prefill, "TTT-Linear, prefill, eager PyTorch", mode="prefill",
    ),
    KernelEntry(
        "mlp_2_dual_triton", "mlp", "rank-1", _mlp_triton, "TTT-MLP, rank-1 form, Triton",
        needs_gpu=True, overlaps=True,
    ),
    KernelEntry(
        "mlp_2_accumulate_triton", "mlp", "accumulating", _mlp_accumulate_triton,
        "TTT-MLP, accumulating form, Triton", needs_gpu=True,
    ),
    KernelEntry("mlp_2_dual", "mlp", "rank-1", _mlp, "TTT-MLP, rank-1 form, eager PyTorch"),
    KernelEntry(
        "mlp_2_dual_compiled", "mlp", "rank-1", _compiled(_mlp), "TTT-MLP, rank-1 form, compiled PyTorch",
        missing=_missing_for_compiled,
    ),
    KernelEntry(
        "mlp_2_prefill_triton", "mlp", "rank-1", _mlp_prefill_triton, "TTT-MLP, prefill, Triton",
        needs_gpu=True, mode="prefill",
    ),
    KernelEntry("mlp_2_prefill", "mlp", "rank-1", _mlp_prefill, "TTT-MLP, prefill, eager PyTorch", mode="prefill"),
)  # fmt: skip
DEFAULT_GPU = (
    *("mlp_1_dual_triton", "mlp_1_accumulate_triton", "mlp_2_dual_triton", "mlp_2_accumulate_triton"),
    *("mlp_1_prefill_triton", "mlp_2_prefill_triton"),
)
DEFAULT_CPU = ("mlp_1_dual", "mlp_2_dual")


# All kernels


@cache
def registered() -> Known[KernelEntry]:
    """The kernels of this package and of installed packages."""
    found = {entry.name: entry for entry in OWN}
    plugins = tuple(load_plugins(ENTRY_POINT_GROUP, "kernel", KernelEntry, found))
    return Known(found | {entry.name: entry for plugin in plugins for entry in plugin.entries}, plugins)


def find_kernel(name: str) -> KernelEntry:
    """The entry of ``name``. Raises BadInput with the existing names and the packages that cannot be loaded.

    No other package is imported for a kernel of this one.
    """
    own = {entry.name: entry for entry in OWN}
    if name in own:
        return own[name]
    known = registered()
    if name not in known.entries:
        names = f"kernels={name}: no such kernel; the kernels are {', '.join(known.entries)}"
        raise BadInput("\n".join([names, *known.broken]))
    return known.entries[name]


def package_of(name: str) -> str | None:
    """The package that has added the kernel ``name``, with its version; None for a kernel of this package."""
    return None if any(entry.name == name for entry in OWN) else registered().package_of(name)

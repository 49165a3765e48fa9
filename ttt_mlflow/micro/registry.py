"""The registry of kernels that can be timed alone. Each computes an operation of a layer, of a decode step or a prompt.

A kernel is registered here, or by another installed package under the entry point group ``ttt_mlflow.kernels``: an
entry point names a :class:`KernelEntry`, or a function that returns several. A kernel is imported only when it is
timed, so listing the kernels is fast.
"""

from collections.abc import Callable, Iterable
from functools import cache

from ttt_mlflow.errors import BadInput
from ttt_mlflow.micro.entry import KernelEntry, Step
from ttt_mlflow.micro.layer_entries import GROUP, LAYER
from ttt_mlflow.plugins import Known, load_plugins
from ttt_mlflow.run.machine import missing_cxx_compiler

__all__ = ["KernelEntry", "Step"]  # other packages may import them from here
ENTRY_POINT_GROUP = "ttt_mlflow.kernels"


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


INNER_NETS = (
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
OWN = INNER_NETS + LAYER
GROUPS = {GROUP: LAYER}  # a name that stands for several kernels
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
    plugins = tuple(load_plugins(ENTRY_POINT_GROUP, "kernel", KernelEntry, [*found, *GROUPS]))
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
        kernels, groups = ", ".join(known.entries), ", ".join(GROUPS)
        names = f"kernels={name}: no such kernel; the kernels are {kernels}; the groups are {groups}"
        raise BadInput("\n".join([names, *known.broken]))
    return known.entries[name]


def find_kernels(names: Iterable[str]) -> list[KernelEntry]:
    """The entries of ``names``, each once. A group's name stands for its kernels. Raises BadInput as for one name."""
    found = [entry for name in names for entry in GROUPS.get(name) or (find_kernel(name),)]
    return list({entry.name: entry for entry in found}.values())


def package_of(name: str) -> str | None:
    """The package that has added the kernel ``name``, with its version; None for a kernel of this package."""
    return None if any(entry.name == name for entry in OWN) else registered().package_of(name)

"""Lists the models and kernels that can be measured, and tries those of other packages."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ttt_mlflow.app.output import print_error, print_text
from ttt_mlflow.errors import BadInput
from ttt_mlflow.plugins import Known, Named, Trial

if TYPE_CHECKING:
    import torch

Entry = TypeVar("Entry", bound=Named)


def print_models() -> None:
    """Print the models by name, with their inner nets, and below what is missing for some of them, each once.

    Packages whose models cannot be loaded are named on standard error.
    """
    from ttt_mlflow.models.registry import registered
    from ttt_mlflow.plugins import answer_of

    known = registered()
    numbers: dict[str, int] = {}  # of what is missing: all models of a package lack the same
    for name, entry in known.entries.items():
        print_text(f"{name}: {entry.description}")
        if entry.inner_nets:
            print_text(f"    inner nets: {', '.join(entry.inner_nets)}")
        if entry.decode_paths:
            print_text(f"    decode paths: {', '.join(entry.decode_paths)}")
        if entry.attn_impls:
            print_text(f"    attentions: {', '.join(entry.attn_impls)}")
        try:
            missing = answer_of(known.package_of(name), "what must be installed for it", entry.missing)
        except BadInput as error:
            missing = str(error)
        if missing:
            print_text(f"    not available here ({numbers.setdefault(missing, len(numbers) + 1)})")
    if numbers:
        print_text("Not available here:")
    for missing, number in numbers.items():
        print_text(f"({number}) {missing}")
    for reason in known.broken:
        print_error(f"Not available: {reason}")


def print_kernels() -> None:
    """Print the kernels and groups by name, and on standard error the packages whose kernels cannot be loaded."""
    from ttt_mlflow.micro.registry import GROUPS, registered

    known = registered()
    width = max(len(name) for name in known.entries)
    for name, entry in known.entries.items():
        print_text(f"{name:<{width}}  {entry.description}{' (needs a GPU)' if entry.needs_gpu else ''}")
    for name, entries in GROUPS.items():
        print_text(f"{name:<{width}}  all of {', '.join(entry.name for entry in entries)}")
    for reason in known.broken:
        print_error(f"Not available: {reason}")


def check_models(name: str) -> int:
    """Try the model ``name``, or all models of the plugin with this name, and print one line for each check.

    Returns the exit code: 0 all hold, 1 one does not. Raises BadInput if there is no such model and no such plugin.
    """
    from ttt_mlflow.models.registry import registered
    from ttt_mlflow.models.trial import try_model

    return _check(name, f"model_name={name}: no such model", registered, try_model)


def check_kernels(name: str) -> int:
    """The same for a kernel."""
    from ttt_mlflow.micro.registry import registered
    from ttt_mlflow.micro.trial import try_kernel

    return _check(name, f"kernels={name}: no such kernel", registered, try_kernel)


def _check(
    name: str,
    absent: str,
    registered: Callable[[], Known[Entry]],
    try_one: "Callable[[Entry, torch.device, Trial], None]",
) -> int:
    import torch

    from ttt_mlflow.run.caches import choose_kernel_cache
    from ttt_mlflow.run.machine import choose_device

    began = time.perf_counter()
    known = registered()
    loaded_s = time.perf_counter() - began
    entries = [known.entries[name]] if name in known.entries else []
    plugins = [one for one in known.plugins if name == one.name or (entries and entries[0] in one.entries)]
    if not entries:
        entries = [entry for plugin in plugins for entry in plugin.entries]
    if not entries and not plugins:
        raise BadInput("\n".join([f"{absent}; there are {', '.join(known.entries)}", *known.broken]))
    trial = Trial(print_text)
    for plugin in plugins:
        if plugin.fault:
            trial.fail(f"the package can be imported ({loaded_s:.2f} s)", plugin.fault)
        else:
            print_text(f"ok       {plugin.package} can be imported ({loaded_s:.2f} s, with all other plugins)")
    device = torch.device(choose_device(None, []))
    if device.type == "cuda":
        notices: list[str] = []
        choose_kernel_cache(notices)
        for notice in notices:
            print_error(f"Note: {notice}")
    for entry in entries:
        print_text(f"{entry.name} on {device.type}")
        try_one(entry, device, trial)
    print_text(f"{trial.failures} of the checks failed" if trial.failures else "All checks hold.")
    return 1 if trial.failures else 0

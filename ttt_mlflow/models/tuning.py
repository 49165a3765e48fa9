"""What Triton's autotuner keeps in this process for the kernels of another package."""

import sys


def forget_tuning(package: str) -> None:
    """Let every autotuned kernel of ``package`` be tuned again.

    The keys of such packages leave the batch out. So what was tuned for one batch would be used for every later one.
    """
    from triton.runtime.autotuner import Autotuner, Heuristics

    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            for value in list(vars(module).values()):
                while isinstance(value, Heuristics):
                    value = value.fn
                if isinstance(value, Autotuner):
                    value.cache.clear()

"""Triton's autotuner, for the kernels of another package: what it keeps in this process, and how long it takes."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


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


@contextmanager
def compiling_at_once() -> Iterator[None]:
    """Until the block ends, compile what an autotuned kernel chooses from on all cores, before it tries them.

    The autotuner compiles one configuration after the other, each when it is its turn. Its choice stays its own. A
    configuration that does not compile is met by it again, as it would be without this.
    """
    from triton import AsyncCompileMode
    from triton.runtime.autotuner import Autotuner

    alone = Autotuner.run

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(self.configs) > 1:
            launch = {name: value for name, value in kwargs.items() if name != "warmup"}
            with AsyncCompileMode(threads, ignore_errors=True):
                self.warmup(*args, **launch)
        return alone(self, *args, **kwargs)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        Autotuner.run = run
        try:
            yield
        finally:
            Autotuner.run = alone

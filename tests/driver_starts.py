"""Which imports start the CUDA driver, and by which call: ``python -m tests.driver_starts MODULE...`` prints stacks."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType, ModuleType
from typing import Any

from ttt_mlflow.app import fork_server


def driver_starts(names: Sequence[str]) -> list[str]:
    """What each of ``names`` does that starts the driver: the module whose import it is, and the stack of the call.

    They are imported one after the other, in this process those that do not start it, so that each is looked at.
    """
    if not _in_a_fork(lambda: _starter(names)):
        return []
    found = []
    for name in names:
        starter = _in_a_fork(lambda name=name: _starter([name]))  # type: ignore[misc]
        if starter:
            stack = _in_a_fork(lambda name=name, starter=starter: _stack(name, starter))  # type: ignore[misc]
            found.append(f"{name}: importing {starter} starts the driver:\n{stack}")
        else:
            importlib.import_module(name)
    return found


def _starter(names: Sequence[str]) -> str:
    """The module whose import starts the driver; empty if none does."""
    with fork_server._watched() as starters:
        for name in names:
            importlib.import_module(name)
    return starters[0] if starters else ""


def _stack(name: str, starter: str) -> str:
    """The stack of the call that starts the driver while ``starter`` is executed, in an import of ``name``."""
    found: list[str] = []

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event in ("c_return", "c_exception", "return") and not found and fork_server.driver_is_started():
            found.append("".join(traceback.format_stack(frame)[-12:]))

    source: Any = importlib.machinery.SourceFileLoader
    execute = source.exec_module

    def exec_module(self: Any, module: ModuleType) -> None:
        if module.__name__ != starter:
            return execute(self, module)
        sys.setprofile(look)
        try:
            return execute(self, module)
        finally:
            sys.setprofile(None)

    source.exec_module = exec_module
    importlib.import_module(name)
    return found[0] if found else "no call of Python's did it: an extension that it loads\n"


def _in_a_fork(do: Callable[[], str]) -> str:
    """What ``do`` returns in a fork of this process."""
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            text = do()
        except BaseException:  # of the fork, which tells it and ends
            text = traceback.format_exc()
        with os.fdopen(write, "w") as answer:
            answer.write(text)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.wait()
    return text


if __name__ == "__main__":
    os.environ.update(fork_server.WITHOUT_DRIVER)
    print("\n".join(driver_starts(sys.argv[1:])), end="")

"""Whether packages are installed in this environment, and the command that installs them into it."""

import importlib.machinery
import importlib.util
import shlex
import sys
from collections.abc import Sequence


def is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def has_pip() -> bool:
    """Looks for pip's files alone. Before Python 3.12 setuptools' import hook takes the question whether there is a pip
    for pip's start, and then neither setuptools nor torch.compile, which imports it, works in this process."""
    return importlib.machinery.PathFinder.find_spec("pip") is not None


def install_command(*arguments: str) -> str:
    """For this environment's own pip, or for uv where the environment has no pip."""
    own: Sequence[str] = [sys.executable, "-m", "pip", "install"]
    installer = own if has_pip() else ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*installer, *arguments])

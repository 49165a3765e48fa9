"""What a Mamba model needs beside this package, and the command that installs it into this environment."""

import importlib.machinery
import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

# module -> what pip installs, as in pyproject.toml
REQUIREMENTS = {"mamba_ssm": "mamba-ssm>=2.3.2.post1,<2.4", "causal_conv1d": "causal-conv1d>=1.7,<1.8"}
# Both are built in the environment, against its PyTorch. So what builds them must be there too: module -> package.
BUILD_TOOLS = {"setuptools": "setuptools", "wheel": "wheel", "packaging": "packaging", "ninja": "ninja"}
CUDA_FOLDERS = ("CUDA_HOME", "CUDA_PATH")


def missing() -> str | None:
    """What must be installed before a Mamba model can be built, in one line with the command, or None."""
    absent = {module: what for module, what in REQUIREMENTS.items() if not _is_there(module)}
    if not absent:
        return None
    names = " and ".join(what.partition(">")[0] for what in absent.values())
    command = _command(list(absent.values()))
    if compiler := find_nvcc():
        return f"{names} not installed; {compiler} builds what is missing, in minutes: {command}"
    return (
        f"{names} not installed; building needs a CUDA toolchain, and no nvcc was found (on PATH, in CUDA_HOME, in "
        f"/usr/local/cuda); with one: {command}"
    )


def find_nvcc() -> str | None:
    """The CUDA compiler that building would use: that of CUDA_HOME, on PATH, or in /usr/local/cuda."""
    folders = [os.environ[name] for name in CUDA_FOLDERS if os.environ.get(name)]
    places = [Path(folder) / "bin/nvcc" for folder in folders]
    found = [str(place) for place in places if os.access(place, os.X_OK)]
    on_path, usual = shutil.which("nvcc"), Path("/usr/local/cuda/bin/nvcc")
    return next((one for one in [*found, on_path, str(usual) if os.access(usual, os.X_OK) else None] if one), None)


def _command(requirements: list[str]) -> str:
    """For this environment's own pip, or for uv where the environment has no pip."""
    own = [sys.executable, "-m", "pip", "install"]
    installer = own if _has_pip() else ["uv", "pip", "install", "--python", sys.executable]
    tools = [package for module, package in BUILD_TOOLS.items() if not _is_there(module)]
    build = shlex.join([*installer, "--no-build-isolation", *requirements])
    return f"{shlex.join([*installer, *tools])} && {build}" if tools else build


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _has_pip() -> bool:
    """Looks for pip's files alone. Before Python 3.12 setuptools' import hook takes the question whether there is a pip
    for pip's start, and then neither setuptools nor torch.compile, which imports it, works in this process."""
    return importlib.machinery.PathFinder.find_spec("pip") is not None

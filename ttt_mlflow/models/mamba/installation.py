"""What a Mamba model needs beside this package, and the command that installs it into this environment."""

import os
import shutil
from pathlib import Path

from ttt_mlflow.models.installation import install_command, is_there

# module -> what pip installs, as in pyproject.toml
REQUIREMENTS = {"mamba_ssm": "mamba-ssm>=2.3.2.post1,<2.4", "causal_conv1d": "causal-conv1d>=1.7,<1.8"}
# Both are built in the environment, against its PyTorch. So what builds them must be there too: module -> package.
BUILD_TOOLS = {"setuptools": "setuptools", "wheel": "wheel", "packaging": "packaging", "ninja": "ninja"}
CUDA_FOLDERS = ("CUDA_HOME", "CUDA_PATH")


def missing() -> str | None:
    """What must be installed before a Mamba model can be built, in one line with the command, or None."""
    absent = {module: what for module, what in REQUIREMENTS.items() if not is_there(module)}
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
    tools = [package for module, package in BUILD_TOOLS.items() if not is_there(module)]
    build = install_command("--no-build-isolation", *requirements)
    return f"{install_command(*tools)} && {build}" if tools else build

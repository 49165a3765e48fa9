"""What this machine has: a GPU, Triton's interpreter, a compiler.

torch is imported where it is needed: the list of kernels asks for the rest only.
"""

import os
import shutil

from ttt_mlflow.errors import BadInput


def interpreting() -> bool:
    """Whether Triton runs its kernels in its interpreter, on the host."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing_cxx_compiler() -> str | None:
    """Why torch.compile cannot compile for the CPU here; None where it can."""
    if os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"):
        return None
    return "compiling for a CPU needs a C++ compiler (g++ or clang++), and none is found"


def choose_device(asked: str | None, notices: list[str]) -> str:
    """``cuda`` or ``cpu``; raise BadInput for a GPU that is asked for and is not there."""
    import torch

    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise BadInput("device=cuda: PyTorch finds no GPU on this machine; use device=cpu, or a machine with a GPU")
    device = asked or ("cuda" if found else "cpu")
    if device == "cuda" and interpreting():
        raise BadInput("device=cuda: TRITON_INTERPRET=1 is set, Triton would run on the host; unset it, or use cpu")
    if asked is None and device == "cpu":
        notices.append("device: no GPU found, measuring on the CPU")
    return device

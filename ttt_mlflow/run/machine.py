"""The capabilities of this machine: a GPU, Triton's interpreter, a compiler.

torch is imported only where it is needed, because listing the kernels does not need it.
"""

import os
import shutil

from ttt_mlflow.errors import BadInput


def interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, on the host."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing_cxx_compiler() -> str | None:
    """Why torch.compile cannot compile for the CPU here; None if it can."""
    if os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"):
        return None
    return "compiling for a CPU needs a C++ compiler (g++ or clang++), but none was found"


def choose_device(asked: str | None, notices: list[str]) -> str:
    """``cuda`` or ``cpu``. Raises BadInput if a GPU is requested but not available."""
    import torch

    found = torch.cuda.is_available()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    limited = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible or repr(visible)}"
    if asked == "cuda" and not found:
        other = "a machine with a GPU" if visible is None else "name a GPU that nvidia-smi -L lists"
        raise BadInput(f"device=cuda: PyTorch finds no GPU on this machine{limited}; use device=cpu, or {other}")
    device = asked or ("cuda" if found else "cpu")
    if device == "cuda" and interpreting():
        raise BadInput("device=cuda: TRITON_INTERPRET=1 makes Triton run on the host; unset it, or use device=cpu")
    if asked is None and device == "cpu":
        notices.append(f"device: no GPU found{limited}, measuring on the CPU")
    return device

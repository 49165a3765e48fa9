"""Checks of the software."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ttt_mlflow.app.doctor.finding import Gpu, Wrong
from ttt_mlflow.errors import BadInput
from ttt_mlflow.run.caches import KERNELS, kernel_cache_fault

COMPILED_BLOCK = 1024
EXTENSIONS = ("selective_scan_cuda", "causal_conv1d_cuda")  # they fail if torch is not the version of their build


def check_triton(gpus: Sequence[Gpu]) -> str:
    """Compile a kernel, and run it if there is a GPU. The cache folder must be writable."""
    import triton

    from ttt_mlflow.run.machine import interpreting

    if interpreting():
        raise Wrong("TRITON_INTERPRET=1 is set: kernels run on the host", "unset it to measure Triton kernels")
    folder = Path(triton.knobs.cache.dir)
    if reason := kernel_cache_fault(folder):
        effect = "runs on a GPU are refused" if os.environ.get(KERNELS) else "kernels go to the temporary files"
        raise Wrong(f"its cache {folder} {reason}: {effect}", f"set {KERNELS} to a writable folder")
    if gpus:
        for gpu in gpus:  # which may be of different kinds
            _run_a_kernel(gpu)
        names = " and ".join(dict.fromkeys(gpu.name for gpu in gpus))
        return f"Triton {triton.__version__} compiles and runs on {names}; cache {folder}"
    _compile_a_kernel()
    return f"Triton {triton.__version__} compiles; it needs a GPU to run; cache {folder}"


def _run_a_kernel(gpu: Gpu) -> None:
    import torch

    from ttt_mlflow.kernels.stream import block_sums

    with torch.cuda.device(gpu.device):
        values = torch.ones(COMPILED_BLOCK, dtype=torch.int32, device=gpu.device)
        sums = torch.zeros(1, dtype=torch.int32, device=gpu.device)
        block_sums(values, sums, COMPILED_BLOCK, num_warps=4)
        if int(sums) != COMPILED_BLOCK:
            raise Wrong(f"a Triton kernel returned {int(sums)}; {COMPILED_BLOCK} is correct")


def _compile_a_kernel() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ttt_mlflow.kernels.stream import block_sums_kernel

    types = {"x": "*i32", "sums": "*i32", "BLOCK": "constexpr"}
    triton.compile(ASTSource(block_sums_kernel, types, {(2,): COMPILED_BLOCK}), GPUTarget("cuda", 90, 32))


def check_mamba(gpus: Sequence[Gpu], seconds: float) -> str:
    """Check that mamba-ssm and causal-conv1d are installed and that their compiled parts load with this PyTorch."""
    from importlib.metadata import version

    from ttt_mlflow.models.mamba.model import missing

    if reason := missing():
        raise Wrong(reason.partition(";")[0] + ": Mamba cannot be measured", reason.partition("; ")[2])
    names = f"mamba-ssm {version('mamba-ssm')} and causal-conv1d {version('causal-conv1d')}"
    program = f"import torch, {', '.join(EXTENSIONS)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Wrong(f"{names} do not load: {words[-1][:300]}", "rebuild them with this PyTorch")
    return names if gpus else f"{names}; they need a GPU to run"


def check_peers() -> str:
    """Check that flash-linear-attention is installed whole: its two packages have one version."""
    from importlib.metadata import PackageNotFoundError, version

    from ttt_mlflow.models.fla.package import missing

    if reason := missing():
        absent, _, command = reason.partition(": ")
        raise Wrong(f"{absent}: gated delta networks and RWKV-7 cannot be measured", command)
    found = {}
    for package in ("flash-linear-attention", "fla-core"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a folder on the path, without what pip notes
            raise Wrong(f"{package} has no version: gated delta networks and RWKV-7 were not tried with it") from None
    if len(set(found.values())) > 1:
        both = " and ".join(f"{name} {number}" for name, number in found.items())
        raise Wrong(f"{both} do not belong together", "install both in one version")
    return f"flash-linear-attention {found['fla-core']}"


def check_nsys(answer_s: float) -> str:
    from ttt_mlflow.profilers.nsys import find_nsys, importer_fault

    try:
        nsys = find_nsys(answer_s)
    except BadInput as error:
        raise Wrong(str(error).removeprefix("profile=nsys: ")) from None
    if fault := importer_fault(nsys):
        raise Wrong(f"nsys {nsys.version} at {nsys.path}: {fault}", "until then, recordings remain .qdstrm files")
    return f"nsys {nsys.version} at {nsys.path}, with its importer"

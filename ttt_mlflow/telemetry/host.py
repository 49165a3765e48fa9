"""The facts of the host that a result depends on. Environment variables are never recorded."""

import importlib.metadata
import os
import platform
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.telemetry.code import code_id
from ttt_mlflow.telemetry.context import cuda_uuid
from ttt_mlflow.telemetry.gpu_state import gpu_facts
from ttt_mlflow.telemetry.nvml import TelemetryUnavailable, cuda_driver_version, driver_version
from ttt_mlflow.telemetry.pinning import pinned_facts

GIT_SECONDS = 10


def host_facts(device: torch.device | None = None) -> dict[str, object]:
    """Facts about the host, the software and, for a CUDA ``device``, the GPU. A fact that is not available is absent.

    hostname, cpu_model, cpu_cores (that this process may use), cpu_load_1min (processes that ran or waited for a core,
    mean of the last minute), host_memory_gb, host_memory_free_gb (available without swapping), host_swap_used_gb
    (10^9 bytes), kernel, python, torch, triton, mamba_ssm, causal_conv1d, flash_linear_attention, nvidia_ml_py, cuda
    (for which PyTorch was built), driver, cuda_driver (the newest CUDA that the driver supports), code_id (hash of this
    package), git_commit, git_dirty, git_branch (if the checkout is on one), git_repo_url (of the first remote, without
    credentials), gpu_name, gpu_uuid (without NVML's prefix), gpu_memory_gb, gpu_multiprocessors, those of
    :func:`ttt_mlflow.telemetry.gpu_state.gpu_facts`, and in a run of a sweep those of
    :func:`ttt_mlflow.telemetry.pinning.pinned_facts`.
    """
    facts: dict[str, object | None] = {
        "hostname": platform.node() or None,
        "cpu_model": _cpu_model(),
        "cpu_cores": _cpu_cores(),
        "cpu_load_1min": cpu_load_1min(),
        "host_memory_gb": psutil.virtual_memory().total / 1e9,
        "host_memory_free_gb": psutil.virtual_memory().available / 1e9,
        "host_swap_used_gb": psutil.swap_memory().used / 1e9,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": _version("triton"),
        "mamba_ssm": _version("mamba-ssm"),
        "causal_conv1d": _version("causal-conv1d"),
        "flash_linear_attention": _version("flash-linear-attention"),
        "nvidia_ml_py": _version("nvidia-ml-py"),
        "cuda": torch.version.cuda,
        "driver": driver_version(),
        "cuda_driver": cuda_driver_version(),
        "code_id": code_id(),
        **pinned_facts(),
        **_git_facts(),
        **_gpu_facts(device),
    }
    return {name: value for name, value in facts.items() if value is not None}


def cpu_load_1min() -> float | None:
    """Processes that ran or waited for a core, mean of the last minute; None if the system does not report it."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def device_uuid(device: torch.device) -> str:
    """The UUID of a CUDA device, without NVML's prefix: whatever CUDA_VISIBLE_DEVICES names, and in whatever order.

    Raises :class:`TelemetryUnavailable` if it is not known. Nothing else tells which GPU is used: NVML numbers GPUs in
    another order than CUDA, and all of them.
    """
    found = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    if torch.cuda.is_initialized():
        found = cuda_uuid(torch.cuda.current_device() if device.index is None else device.index) or found
    if not found.strip("0-"):
        raise TelemetryUnavailable("PyTorch does not report the GPU's UUID", "check the driver with nvidia-smi -L")
    return found


def package_list() -> str:
    """All installed packages as sorted ``name==version`` lines. Of two with one name, the importable one is listed."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata  # read and parsed each time, the long description too
        name = metadata["Name"]
        if name:
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), metadata["Version"])
    return "".join(f"{name}=={versions[name]}\n" for name in sorted(versions))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or None
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine() or None


def _cpu_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _git_facts() -> dict[str, object | None]:
    """Commit, branch and state of the checkout that this package runs from; nothing for an installed package."""
    package = Path(__file__).resolve().parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {}
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": _git(package, "rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "git_branch": _git(package, "symbolic-ref", "--quiet", "--short", "HEAD"),
        "git_repo_url": _remote_url(package),
    }


def _remote_url(folder: Path) -> str | None:
    """The address of the first remote, without credentials."""
    listed = _git(folder, "config", "--get-regexp", r"^remote\..*\.url$")
    if not listed:
        return None
    return without_secrets(listed.splitlines()[0].partition(" ")[2])


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git; None if there is no git, no checkout or no answer."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _gpu_facts(device: torch.device | None) -> dict[str, object | None]:
    if device is None or device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    facts: dict[str, object | None] = {
        "gpu_name": properties.name,
        "gpu_memory_gb": properties.total_memory / 1e9,
        "gpu_multiprocessors": properties.multi_processor_count,
    }
    with suppress(TelemetryUnavailable):  # the sampler reports it once per run
        facts["gpu_uuid"] = device_uuid(device)
        facts |= gpu_facts(device_uuid(device))
    return facts

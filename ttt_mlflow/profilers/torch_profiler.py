"""Runs PyTorch's profiler on a few steps, in a separate pass after the measurement."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from ttt_mlflow.errors import RunFailed
from ttt_mlflow.workload import STEP, named_by

NO_KERNEL = (
    "profile=torch: PyTorch's profiler recorded no GPU kernel; another profiler (nsys, ncu, dcgm) may be using the "
    "GPU's tracing interface; stop it and profile again"
)


@dataclass(frozen=True)
class Trace:
    """A trace in Chrome's format: the JSON as the profiler wrote it, and its parsed content."""

    data: bytes
    content: dict[str, Any]


def record(
    step: Callable[[], object], n: int, device: torch.device, before: Callable[[], object] | None = None
) -> Trace:
    """Profile ``n`` steps right after ``before`` (by default, one step), which is not recorded.

    The steps are named ``step 0``, ``step 1``, …. In eager steps, layers and parts are named too.

    Raises :class:`RunFailed` if the profiler cannot write the trace.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    # the first recording of a process sets up the GPU's tracing, which would delay the steps; the warm-up absorbs that
    plan = schedule(wait=0, warmup=1, active=1, repeat=1)
    with named_by(record_function), profile(activities=activities, schedule=plan) as profiler:
        (before or step)()
        profiler.step()
        _run(step, n, device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return _checked(path)


def _run(step: Callable[[], object], n: int, device: torch.device) -> None:
    for index in range(n):
        with record_function(f"{STEP}{index}"):
            step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _checked(path: Path) -> Trace:
    """Read the file and check that it is complete. The profiler does not report a full disk."""
    try:
        data = path.read_bytes()
        return Trace(data, json.loads(data))
    except (FileNotFoundError, ValueError):
        raise RunFailed(
            f"profile=torch: PyTorch's profiler did not write a complete trace to {path.parent.parent}; "
            "free some space there, or set TMPDIR to a folder with more space"
        ) from None

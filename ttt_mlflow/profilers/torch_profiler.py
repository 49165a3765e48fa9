"""PyTorch's profiler around a few steps, in a pass of its own after the measurement."""

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
    "profile=torch: PyTorch's profiler recorded no GPU kernel; another profiler (nsys, ncu, dcgm) may hold the GPU's "
    "tracing interface"
)


@dataclass(frozen=True)
class Trace:
    """A trace in Chrome's format: the JSON as the profiler wrote it, and its content."""

    data: bytes
    content: dict[str, Any]


def record(
    step: Callable[[], object], n: int, device: torch.device, before: Callable[[], object] | None = None
) -> Trace:
    """Run ``n`` steps under the profiler, right after ``before`` (one step if it is not given), which is not recorded.

    The steps are named ``step 0``, ``step 1``, …, and inside them layers and parts where they run eagerly.

    Raises :class:`RunFailed` where the profiler cannot write it.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    # the first recording of a process sets the GPU's tracing up, which would delay its steps: that is the warm-up's
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
    """The file, if it is whole: the profiler says nothing where the disk was full."""
    try:
        data = path.read_bytes()
        return Trace(data, json.loads(data))
    except (FileNotFoundError, ValueError):
        raise RunFailed(
            f"profile=torch: PyTorch's profiler did not write a whole trace into {path.parent.parent}; "
            "make room there, or set TMPDIR to a folder with more"
        ) from None

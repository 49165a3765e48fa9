"""PyTorch's profiler, in a pass of its own after the measurement: a trace and a table of kernels."""

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ttt_mlflow.errors import RunFailed

TRACE = "trace.json.gz"
KERNELS = "kernels.csv"


def profile_steps(step: Callable[[], object], n: int, out_dir: Path, device: torch.device) -> None:
    """Run ``n`` steps under the profiler and write ``trace.json.gz`` and ``kernels.csv`` into ``out_dir``.

    The trace has Chrome's format and opens in ui.perfetto.dev as it is. The table has one row a GPU kernel
    (on a CPU: one a PyTorch operator, without the time of the operators it calls), the most expensive first:
    name, calls, total_ms, mean_us, share_pct (of all rows together).

    Raises :class:`RunFailed` if the profiler saw no kernel on a GPU; the trace is written all the same.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    if on_gpu:
        torch.cuda.synchronize(device)
    with profile(activities=activities) as profiler:
        for index in range(n):
            with record_function(f"step {index}"):
                step()
        if on_gpu:
            torch.cuda.synchronize(device)

    out_dir.mkdir(parents=True, exist_ok=True)
    partial = out_dir / f"partial.{TRACE}"
    profiler.export_chrome_trace(str(partial))
    os.replace(partial, out_dir / TRACE)

    kernels = _kernel_table(profiler, device)
    kernels.to_csv(out_dir / KERNELS, index=False)
    if on_gpu and kernels.empty:
        raise RunFailed(
            "profile=torch: PyTorch's profiler recorded no GPU kernel; another profiler (nsys, ncu, dcgm) "
            "may hold the GPU's tracing interface"
        )


def _kernel_table(profiler: profile, device: torch.device) -> pd.DataFrame:
    """What ran on the device, without the ranges that only name other rows."""
    own_time_us = "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
    rows = [
        (row.key, row.count, getattr(row, own_time_us) / 1e3)
        for row in profiler.key_averages()
        if row.device_type.name == device.type.upper() and not row.is_user_annotation
    ]
    table = pd.DataFrame(rows, columns=["name", "calls", "total_ms"])
    table = table.sort_values("total_ms", ascending=False, ignore_index=True)
    table["mean_us"] = 1e3 * table["total_ms"] / table["calls"]
    table["share_pct"] = 100 * table["total_ms"] / table["total_ms"].sum()
    return table

"""Finds the ceilings of a run's GPU, and measures them if they were never measured, so that each run has a roofline."""

import time
from dataclasses import dataclass

import torch

from ttt_mlflow.measurement.ceilings import GpuCeilings, measure_ceilings
from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown, keep_ceilings, known_ceilings
from ttt_mlflow.measurement.roofline import MEASURED_RATES
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.run.attempt import attempt
from ttt_mlflow.run.plan import Plan
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.telemetry.sampler import NvmlSampler


@dataclass(frozen=True)
class FoundCeilings:
    """The ceilings that apply to a run. missing: why there are none, in one line; None if the run needs none."""

    ceilings: GpuCeilings | None = None
    missing: str | None = None


def find_ceilings(plan: Plan, reporter: Reporter, sampler: NvmlSampler | None) -> FoundCeilings:
    """The ceilings of the plan's GPU, kept or measured now. Call this before the model needs the GPU's memory.

    They are measured if they are not kept, which takes seconds, and then kept for later runs. None for a CPU, for a
    model that does not count its work, and for a dtype whose matrix rate is not measured.
    """
    dtype = plan.request.dtype
    if plan.device.type != "cuda" or plan.entry.work is None:
        return FoundCeilings()
    if dtype not in MEASURED_RATES:
        return FoundCeilings(missing=f"the GPU's matrix rate is measured in 16-bit types, but the run uses {dtype}")
    try:
        return FoundCeilings(known_ceilings(plan.device))
    except CeilingsUnknown as error:
        unknown = str(error)
    return _measured_now(plan.device, reporter, sampler, unknown)


def _measured_now(device: torch.device, reporter: Reporter, sampler: NvmlSampler | None, unknown: str) -> FoundCeilings:
    measured: list[GpuCeilings] = []
    began = time.perf_counter()
    if sampler:
        sampler.mark("begin")
    try:
        with reporter.status("measuring the GPU's ceilings"):
            failure = attempt(lambda: measured.append(measure_ceilings(device)), "measuring the GPU's ceilings", device)
    finally:
        if sampler:
            sampler.mark("end")
    others = _computing(sampler)
    if sampler:
        sampler.forget_sections()  # only those of the measurement that follows count
    if failure:
        return FoundCeilings(missing=f"{unknown}; measuring them now failed: {failure}")
    if others:
        return FoundCeilings(missing=f"{unknown}; measured now they would be too low, beside {', '.join(others)}")
    (found,) = measured
    not_kept = keep_ceilings(device, found)
    reporter.say(
        f"The GPU's ceilings were not known and took {time.perf_counter() - began:.1f} s to measure: it reads "
        f"{found.read_gb_per_s:,.0f} GB/s, copies {found.copy_gb_per_s:,.0f} GB/s, multiplies "
        f"{found.matmul_tflops:,.0f} TFLOP/s; {not_kept or 'they are kept for later runs'}"
    )
    return FoundCeilings(found)


def _computing(sampler: NvmlSampler | None) -> list[str]:
    """The other processes that computed on the GPU in the marked section, as far as NVML tells."""
    limit = Thresholds().other_process_sm_pct
    found = (sampler.other_processes(sampler.sections) if sampler else None) or []
    return [
        f"{other.name or 'another process'} (pid {other.pid})"
        for other in found
        if (other.sm_utilization_pct or 0) > limit
    ]

"""The evidence for a verdict: what a run measured and what its GPU reported (:mod:`ttt_mlflow.measurement.verdict`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ttt_mlflow.measurement.drift import Drift
from ttt_mlflow.measurement.loop import Measurement
from ttt_mlflow.names import CLOCK_EVENT_REASONS, ECC_UNCORRECTED_ERRORS, VIOLATION_S
from ttt_mlflow.telemetry.processes import GpuProcess
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.telemetry.samples import Section, clock_event_pct, counted, inside

EXPLAINED_BY_POWER = "sw_power_cap"
POWER_CAP_BIT = 1 << CLOCK_EVENT_REASONS.index(EXPLAINED_BY_POWER)
# An H200 refreshes clock and reason every 100 ms, not together: after a prompt at 1.2 times the power limit, the clock
# was down for two samples before the cap was named. The rest is the time between two samples.
POWER_CAP_LAG_S = 0.15


@dataclass(frozen=True)
class GpuEvidence:
    """What the GPU reported for the measured sections. A value that it did not report is None.

    sm_clock_mhz, power_explained: one value per sample, in order; the second is whether NVML named the power cap within
    POWER_CAP_LAG_S of the sample, also outside of the sections. event_pct: share of the samples in which NVML named a
    clock event. thermal_violation_pct: share of the sections' time that NVML's counter of thermal violations added.
    """

    sm_clock_mhz: Sequence[float] | None = None
    power_explained: Sequence[bool] | None = None
    event_pct: Mapping[str, float] | None = None
    thermal_violation_pct: float | None = None
    ecc_uncorrected: int | None = None
    other_processes: Sequence[GpuProcess] | None = None


@dataclass(frozen=True)
class Evidence:
    """The evidence for a verdict. section_s: measured time. interrupted: the run ended early."""

    on_gpu: bool
    section_s: float
    passes: int
    relative_half_width_pct: float | None
    drift: Drift | None
    precision_pct: float
    gpu: GpuEvidence | None = None
    interrupted: bool = False


def evidence(measurement: Measurement, sampler: NvmlSampler | None, on_gpu: bool, precision_pct: float) -> Evidence:
    """The evidence of one attempt of a decode or prefill measurement."""
    complete = measurement.complete_passes
    return Evidence(
        on_gpu=on_gpu,
        section_s=sum(repeat.total_ms for repeat in complete) / 1e3,
        passes=len(complete),
        relative_half_width_pct=measurement.relative_half_width_pct,
        drift=measurement.drifts().get("drift"),
        precision_pct=precision_pct,
        gpu=gpu_evidence(sampler, sampler.sections) if sampler else None,
        interrupted=measurement.interrupted,
    )


def gpu_evidence(sampler: NvmlSampler, sections: Sequence[Section]) -> GpuEvidence:
    """What the GPU reported in ``sections``. A value that it did not report is None."""
    frame = sampler.frame()
    rows = frame[inside(frame, sections)] if not frame.empty else frame
    clocks = explained = events = None
    if "sm_clock_mhz" in rows:
        rows = rows[rows["sm_clock_mhz"].notna()]
        clocks = rows["sm_clock_mhz"].tolist()
    if "clock_event_reasons" in rows and len(rows) and rows["clock_event_reasons"].notna().all():
        explained = _explained_by_power(rows, frame)
        events = clock_event_pct(rows)
    found, seconds = counted(sections), sum(section.seconds for section in sections)
    thermal_s, ecc_errors = found.get(VIOLATION_S["thermal"]), found.get(ECC_UNCORRECTED_ERRORS)
    return GpuEvidence(
        sm_clock_mhz=clocks,
        power_explained=explained,
        event_pct=events,
        thermal_violation_pct=100 * thermal_s / seconds if thermal_s is not None and seconds else None,
        ecc_uncorrected=None if ecc_errors is None else int(ecc_errors),
        other_processes=sampler.other_processes(sections),
    )


def _explained_by_power(rows: pd.DataFrame, frame: pd.DataFrame) -> list[bool]:
    """Whether the power cap was named within POWER_CAP_LAG_S of each of ``rows``. ``frame``: all samples."""
    named = frame["clock_event_reasons"].fillna(0).astype("int64") & POWER_CAP_BIT != 0
    capped_ns, times_ns = frame.loc[named, "time_ns"].to_numpy(), rows["time_ns"].to_numpy()
    lag_ns = int(POWER_CAP_LAG_S * 1e9)
    first = np.searchsorted(capped_ns, times_ns - lag_ns)
    last = np.searchsorted(capped_ns, times_ns + lag_ns, side="right")
    return (last > first).tolist()

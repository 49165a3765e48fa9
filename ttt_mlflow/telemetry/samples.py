"""Evaluates the GPU's samples: the metrics of the measured sections, time series, a table and a plot.

Everything is derived from the sections and from the rows of
:meth:`ttt_mlflow.telemetry.sampler.NvmlSampler.frame`, which are kept as ``samples.csv``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from ttt_mlflow import names
from ttt_mlflow.names import (
    CLOCK_EVENT_PCT,
    CLOCK_EVENT_REASONS,
    VIOLATION_POLICIES,
    VIOLATION_S,
    Metrics,
    Series,
    SystemMetric,
)

SERIES_PER_SECOND = 2

# The energy counter advances every 100 ms, so a section's energy has an error of up to that much at each end. It is
# reported only if this error is less than a tenth of the sections.
ENERGY_STEP_SECONDS = 0.1
ENERGY_ERROR_SHARE = 0.1

# NVML refreshes GPM's counters every 100 ms, so a reading may begin and end up to that much before its span.
GPM_LATE_MS = 100.0
GPM_METRICS = {
    "sm_active_pct": names.SM_ACTIVE_PCT_MEAN,
    "tensor_active_pct": names.TENSOR_ACTIVE_PCT_MEAN,
    "dram_bandwidth_pct": names.DRAM_BANDWIDTH_PCT_MEAN,
}


@dataclass(frozen=True)
class Section:
    """A measured section on the sampler's clock, and the GPU's counters in it.

    violation_s: {policy of names.VIOLATION_POLICIES: seconds in which it held the clocks down}; an unknown policy is
    absent. energy_j, ecc_uncorrected_errors: None if the GPU does not count them.
    """

    begin_ns: int
    end_ns: int
    energy_j: float | None = None
    violation_s: Mapping[str, float] = field(default_factory=dict)
    ecc_uncorrected_errors: int | None = None

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e9


def summarize(samples: pd.DataFrame, sections: Sequence[Section]) -> Metrics:
    """The metrics of the measured sections. A value that was not sampled there is absent.

    Power is the instantaneous power if the GPU reports it, because NVML's average reaches back to before the section.
    ``clock_event_<reason>_pct`` is the share of the samples in which NVML named the reason, 0 if it never did.
    """
    metrics: Metrics = {}
    rows = samples[inside(samples, sections)] if not samples.empty else samples
    for metric, column, statistic, scale in (
        (names.SM_CLOCK_MHZ_MEAN, "sm_clock_mhz", "mean", 1.0),
        (names.SM_CLOCK_MHZ_MIN, "sm_clock_mhz", "min", 1.0),
        (names.SM_CLOCK_MHZ_MAX, "sm_clock_mhz", "max", 1.0),
        (names.MEMORY_CLOCK_MHZ_MEAN, "memory_clock_mhz", "mean", 1.0),
        (names.POWER_W_MEAN, power_column(rows), "mean", 1.0),
        (names.TEMPERATURE_C_MAX, "temperature_c", "max", 1.0),
        (names.GPU_UTILIZATION_PCT_MEAN, "gpu_utilization_pct", "mean", 1.0),
        (names.DEVICE_MEMORY_USED_GB, "memory_used_bytes", "max", 1e-9),
    ):
        values = rows[column].dropna() if column in rows else pd.Series()
        if not values.empty:
            metrics[metric] = float(values.agg(statistic)) * scale
    looks = samples[inside(samples, whole(sections))] if not samples.empty else samples
    for neighbor in (names.NEIGHBOR_GPUS_BUSY, names.NEIGHBOR_POWER_W):
        values = looks[neighbor.name].dropna() if neighbor.name in looks else pd.Series()
        if not values.empty:
            metrics[neighbor] = float(values.mean())
    metrics |= {CLOCK_EVENT_PCT[reason]: share for reason, share in (clock_event_pct(rows) or {}).items()}
    metrics |= _gpm_means(samples, sections)
    energy = _energy_j(sections)
    if energy is not None:
        metrics[names.ENERGY_J] = energy
    return metrics | counted(sections)


def series(samples: pd.DataFrame, gpu_index: int) -> Series:
    """The samples as time series for MLflow's System metrics.

    Each point is the mean of half a second. The step is its index.
    """
    if samples.empty:
        return {}
    columns: dict[SystemMetric, tuple[str | None, float]] = {
        names.SYSTEM_SM_CLOCK: ("sm_clock_mhz", 1.0),
        names.SYSTEM_MEMORY_CLOCK: ("memory_clock_mhz", 1.0),
        names.SYSTEM_POWER: (power_column(samples), 1.0),
        names.SYSTEM_TEMPERATURE: ("temperature_c", 1.0),
        names.SYSTEM_UTILIZATION: ("gpu_utilization_pct", 1.0),
        names.SYSTEM_MEMORY: ("memory_used_bytes", 1e-6),
        names.SYSTEM_DRAM_BANDWIDTH: ("dram_bandwidth_pct", 1.0),
    }
    step_ns = 1_000_000_000 // SERIES_PER_SECOND
    first_ns = int(samples["time_ns"].min())
    bins = (samples["time_ns"] - first_ns) // step_ns
    points: Series = {}
    for metric, (column, scale) in columns.items():
        if column in samples:
            means = samples[column].groupby(bins).mean().dropna() * scale
            points[metric.of(gpu_index)] = [
                ((first_ns + index * step_ns) // 1_000_000, step, value)
                for step, (index, value) in enumerate(zip(means.index.tolist(), means.tolist(), strict=True))
            ]
    return points


def inside(samples: pd.DataFrame, sections: Sequence[Section], before_ms: pd.Series | float = 0.0) -> pd.Series:
    """Whether each sample, and the ``before_ms`` before it, were inside one of the sections."""
    within = pd.Series(False, index=samples.index)
    reach_ns = 1e6 * before_ms
    for section in sections:
        since_begin_ns = samples["time_ns"] - section.begin_ns
        within |= (since_begin_ns >= reach_ns) & (samples["time_ns"] <= section.end_ns)
    return within


def whole(sections: Sequence[Section]) -> list[Section]:
    """One section from the begin of the first to the end of the last; none without any.

    For what is read twice a second and covers up to a second: passes of some milliseconds mostly lie between two looks.
    """
    return [Section(sections[0].begin_ns, sections[-1].end_ns)] if sections else []


def samples_csv(samples: pd.DataFrame) -> str:
    """The raw samples, one row each, with the columns of :meth:`NvmlSampler.frame`."""
    return str(samples.to_csv(index=False))


def power_column(samples: pd.DataFrame) -> str | None:
    for column in ("power_instant_w", "power_w"):
        if column in samples and samples[column].notna().any():
            return column
    return None


def _gpm_means(samples: pd.DataFrame, sections: Sequence[Section]) -> Metrics:
    """Time-weighted means of GPM's readings. Only readings that are completely inside one section are used."""
    if "gpm_span_ms" not in samples:
        return {}
    rows = samples[inside(samples, sections, samples["gpm_span_ms"] + GPM_LATE_MS)]
    means: Metrics = {}
    for column, metric in GPM_METRICS.items():
        if column in rows:
            known = rows[rows[column].notna()]
            if not known.empty:
                weighted = known[column] * known["gpm_span_ms"]
                means[metric] = float(weighted.sum() / known["gpm_span_ms"].sum())
    return means


def clock_event_pct(rows: pd.DataFrame) -> dict[str, float] | None:
    """The share of the rows in which NVML named each clock event, including 0; None if NVML did not answer."""
    masks = rows["clock_event_reasons"].dropna().astype("int64") if "clock_event_reasons" in rows else pd.Series()
    if masks.empty:
        return None
    return {reason: 100.0 * float(((masks & (1 << bit)) != 0).mean()) for bit, reason in enumerate(CLOCK_EVENT_REASONS)}


def counted(sections: Sequence[Section]) -> Metrics:
    """The metrics of violations and ECC errors over all sections. A value that one section lacks is absent."""
    metrics: Metrics = {}
    for policy in VIOLATION_POLICIES:
        if sections and all(policy in section.violation_s for section in sections):
            metrics[VIOLATION_S[policy]] = float(sum(section.violation_s[policy] for section in sections))
    errors = [section.ecc_uncorrected_errors for section in sections]
    known = [count for count in errors if count is not None]
    if known and len(known) == len(errors):
        metrics[names.ECC_UNCORRECTED_ERRORS] = float(sum(known))
    return metrics


def _energy_j(sections: Sequence[Section]) -> float | None:
    """The energy of all sections; None if it was not read or if they are too short for the counter."""
    energies = [section.energy_j for section in sections if section.energy_j is not None]
    if not sections or len(energies) < len(sections):
        return None
    # the errors of the sections are independent, so they grow with the square root of their number
    error_s = ENERGY_STEP_SECONDS * len(sections) ** 0.5
    if error_s > ENERGY_ERROR_SHARE * sum(section.seconds for section in sections):
        return None
    return sum(energies)

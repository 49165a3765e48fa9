"""What the GPU's samples say: the metrics of the measured sections, time series, a table and a picture.

Everything here is derived from the rows of :meth:`ttt_mlflow.telemetry.sampler.NvmlSampler.frame`, which are kept
as ``samples.csv``, and from the sections.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ttt_mlflow.names import (
    CLOCK_EVENT_REASONS,
    VIOLATION_POLICIES,
    clock_event_metric,
    system_metric,
    violation_metric,
)

SERIES_PER_SECOND = 2
GREY = "#8a8f98"

# The energy counter moves every 100 ms, so that a section's energy is off by up to that much at its ends.
# It is given only where the sections are long enough for this to be under a tenth of it.
ENERGY_STEP_SECONDS = 0.1
ENERGY_ERROR_SHARE = 0.1

# NVML refreshes GPM's counters every 100 ms: a reading may begin, and end, by up to that much before its span.
GPM_LATE_MS = 100.0
GPM_COLUMNS = ("sm_active_pct", "tensor_active_pct", "dram_bandwidth_pct")


@dataclass(frozen=True)
class Section:
    """A measured section on the host's clock (time.time_ns), and what the card counted in it.

    violation_s: {policy of names.VIOLATION_POLICIES: seconds in which it held the clocks down}; a policy that is not
    known is not in it. energy_j, ecc_uncorrected_errors: None where the card does not count them.
    """

    begin_ns: int
    end_ns: int
    energy_j: float | None = None
    violation_s: Mapping[str, float] = field(default_factory=dict)
    ecc_uncorrected_errors: int | None = None

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e9


def summarise(samples: pd.DataFrame, sections: Sequence[Section]) -> dict[str, float]:
    """The metrics of the measured sections alone; what was not sampled there is absent.

    Power is the instantaneous one where the card has it, because NVML's own average reaches back to before
    the section. ``clock_event_<reason>_pct`` is the share of the samples in which NVML named the reason,
    0 where it named it in none.
    """
    metrics: dict[str, float] = {}
    rows = samples[inside(samples, sections)] if not samples.empty else samples

    def put(metric: str, column: str | None, statistic: str, scale: float = 1.0) -> None:
        if column in rows:
            values = rows[column].dropna()
            if not values.empty:
                metrics[metric] = float(values.agg(statistic)) * scale

    put("sm_clock_mhz_mean", "sm_clock_mhz", "mean")
    put("sm_clock_mhz_min", "sm_clock_mhz", "min")
    put("sm_clock_mhz_max", "sm_clock_mhz", "max")
    put("memory_clock_mhz_mean", "memory_clock_mhz", "mean")
    put("power_w_mean", _power_column(rows), "mean")
    put("temperature_c_max", "temperature_c", "max")
    put("gpu_utilization_pct_mean", "gpu_utilization_pct", "mean")
    put("device_memory_used_gb", "memory_used_bytes", "max", 1e-9)
    metrics |= {clock_event_metric(reason): share for reason, share in (clock_event_pct(rows) or {}).items()}
    metrics |= _gpm_means(samples, sections)
    energy = _energy_j(sections)
    if energy is not None:
        metrics["energy_j"] = energy
    return metrics | counted(sections)


def series(samples: pd.DataFrame, gpu_index: int) -> dict[str, list[tuple[int, int, float]]]:
    """The samples as time series for MLflow's System metrics: {metric: [(timestamp_ms, step, value)]}.

    Each point is the mean of half a second; the step is its index.
    """
    if samples.empty:
        return {}
    columns: dict[str, tuple[str | None, float]] = {
        "sm_clock_megahertz": ("sm_clock_mhz", 1.0),
        "memory_clock_megahertz": ("memory_clock_mhz", 1.0),
        "power_usage_watts": (_power_column(samples), 1.0),
        "temperature_celsius": ("temperature_c", 1.0),
        "utilization_percentage": ("gpu_utilization_pct", 1.0),
        "memory_usage_megabytes": ("memory_used_bytes", 1e-6),
        "dram_bandwidth_percentage": ("dram_bandwidth_pct", 1.0),
    }
    step_ns = 1_000_000_000 // SERIES_PER_SECOND
    first_ns = int(samples["time_ns"].min())
    bins = (samples["time_ns"] - first_ns) // step_ns
    points = {}
    for name, (column, scale) in columns.items():
        if column in samples:
            means = samples[column].groupby(bins).mean().dropna() * scale
            points[system_metric(gpu_index, name)] = [
                ((first_ns + index * step_ns) // 1_000_000, step, value)
                for step, (index, value) in enumerate(zip(means.index.tolist(), means.tolist(), strict=True))
            ]
    return points


def inside(samples: pd.DataFrame, sections: Sequence[Section], before_ms: pd.Series | float = 0.0) -> pd.Series:
    """Whether each sample was taken inside one of the sections, and so were the ``before_ms`` before it."""
    within = pd.Series(False, index=samples.index)
    reach_ns = 1e6 * before_ms
    for section in sections:
        since_begin_ns = samples["time_ns"] - section.begin_ns
        within |= (since_begin_ns >= reach_ns) & (samples["time_ns"] <= section.end_ns)
    return within


def write_samples_csv(samples: pd.DataFrame, path: Path) -> None:
    """The raw samples, one row each, with the columns of :meth:`NvmlSampler.frame`."""
    samples.to_csv(path, index=False)


def _power_column(samples: pd.DataFrame) -> str | None:
    for column in ("power_instant_w", "power_w"):
        if column in samples and samples[column].notna().any():
            return column
    return None


def _gpm_means(samples: pd.DataFrame, sections: Sequence[Section]) -> dict[str, float]:
    """Means over time of GPM's readings; of those alone that cover nothing outside one section."""
    if "gpm_span_ms" not in samples:
        return {}
    rows = samples[inside(samples, sections, samples["gpm_span_ms"] + GPM_LATE_MS)]
    means = {}
    for column in GPM_COLUMNS:
        if column in rows:
            known = rows[rows[column].notna()]
            if not known.empty:
                weighted = known[column] * known["gpm_span_ms"]
                means[f"{column}_mean"] = float(weighted.sum() / known["gpm_span_ms"].sum())
    return means


def clock_event_pct(rows: pd.DataFrame) -> dict[str, float] | None:
    """The share of the rows in which NVML named each clock event, 0 included; None where it did not answer."""
    masks = rows["clock_event_reasons"].dropna().astype("int64") if "clock_event_reasons" in rows else pd.Series()
    if masks.empty:
        return None
    return {reason: 100.0 * float(((masks & (1 << bit)) != 0).mean()) for bit, reason in enumerate(CLOCK_EVENT_REASONS)}


def counted(sections: Sequence[Section]) -> dict[str, float]:
    """The metrics of violations and ECC errors, all sections together; without what one of them does not know."""
    metrics = {}
    for policy in VIOLATION_POLICIES:
        if sections and all(policy in section.violation_s for section in sections):
            metrics[violation_metric(policy)] = float(sum(section.violation_s[policy] for section in sections))
    errors = [section.ecc_uncorrected_errors for section in sections]
    known = [count for count in errors if count is not None]
    if known and len(known) == len(errors):
        metrics["ecc_uncorrected_errors"] = float(sum(known))
    return metrics


def _energy_j(sections: Sequence[Section]) -> float | None:
    """The sections' energy together; None where it was not read or they are too short for the counter."""
    energies = [section.energy_j for section in sections if section.energy_j is not None]
    if not sections or len(energies) < len(sections):
        return None
    # the errors of the sections are independent and grow with the root of their number
    error_s = ENERGY_STEP_SECONDS * len(sections) ** 0.5
    if error_s > ENERGY_ERROR_SHARE * sum(section.seconds for section in sections):
        return None
    return sum(energies)

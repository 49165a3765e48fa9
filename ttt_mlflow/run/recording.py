"""Writes what all kinds of runs record: samples, the verdict, the roofline."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ttt_mlflow import names
from ttt_mlflow.errors import BadInput, one_line
from ttt_mlflow.measurement.roofline import PartWork, by_part, floor_ms, total_bytes, total_flops
from ttt_mlflow.measurement.verdict import Verdict
from ttt_mlflow.names import Artifact, Metrics, Series
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.room import UNWRITABLE
from ttt_mlflow.report.clocks_chart import clocks_png
from ttt_mlflow.report.roofline_chart import parts_csv, roofline_png
from ttt_mlflow.run.gpu_ceilings import FoundCeilings
from ttt_mlflow.run.plan import Plan
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.telemetry import samples
from ttt_mlflow.telemetry.processes import processes_csv
from ttt_mlflow.telemetry.sampler import NvmlSampler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roofline:
    """The work of a step (in prefill mode, the prompt) as metrics and by part; empty if the model does not count it."""

    metrics: Metrics = field(default_factory=dict)
    parts: tuple[PartWork, ...] = ()


def record_optional(
    record: Journal, reporter: Reporter, artifact: Artifact, make: Callable[[], bytes | str], reserved: bool = False
) -> None:
    """Write ``artifact`` with the content that ``make`` returns. If the disk does not take it, say so and go on.

    The numbers of a run do not depend on it. ``reserved``: see :meth:`Journal.write_artifact`.
    """
    try:
        data = make()
    except OSError as error:  # a picture needs a folder for the fonts that were found
        reporter.leave_out(artifact, error.strerror or one_line(error))
        return
    try:
        record.write_artifact(artifact, data, reserved)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        reporter.leave_out(artifact, f"{error.strerror} in {record.path.parent}")


def record_samples(
    record: Journal, reporter: Reporter, sampler: NvmlSampler, device: torch.device, title: str
) -> Series:
    """Write the samples and their plot, the cost of the queries, and the other processes on the GPU.

    Returns the time series for MLflow's System metrics.
    """
    for query, reason in sampler.refused.items():
        log.warning("NVML does not answer %s: %s", query, reason)
    record_optional(record, reporter, names.ARTIFACT_QUERIES, lambda: sampler.queries().to_csv(index=False))
    if others := sampler.other_processes():
        record_optional(record, reporter, names.ARTIFACT_PROCESSES, lambda: processes_csv(others))
    neighbors = sampler.neighbors()
    if not neighbors.empty:
        record_optional(record, reporter, names.ARTIFACT_NEIGHBORS, lambda: neighbors.to_csv(index=False))
    frame = sampler.frame()
    if frame.empty:
        return {}
    record_optional(record, reporter, names.ARTIFACT_SAMPLES, lambda: samples.samples_csv(frame))
    record_optional(record, reporter, names.ARTIFACT_CLOCKS, lambda: clocks_png(frame, sampler.sections, title))
    return samples.series(frame, device.index or 0)


def record_system_series(record: Journal, reporter: Reporter, measured: Series, system: Series) -> None:
    """Add the time series of the samples to the measured ones. If the disk does not take them, say so and go on."""
    if not system:
        return
    try:
        record.set_series(measured | system, reserved=False)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        reporter.warn(f"the time series of the GPU are left out: {error.strerror} in {record.path.parent}")


def record_verdict(record: Journal, verdict: Verdict) -> None:
    """Record the verdict as tags, and with all its findings as an artifact."""
    record.write_artifact(names.ARTIFACT_VERDICT, json.dumps(verdict.record(), indent=1), reserved=True)
    record.update_tags(verdict.tags())
    log.info("verdict: %s", verdict.text)


def record_roofline(
    record: Journal, reporter: Reporter, plan: Plan, measured_ms: float | None, found: FoundCeilings
) -> Roofline:
    """Count the work of a step (in prefill mode, the prompt), and compare its roofline time with ``measured_ms``.

    ``measured_ms`` is the mean measured time. Writes the parts and, if the ceilings and a measured time are known, the
    chart. A warning says why ceilings are missing.
    """
    try:
        stages = plan.stages("the roofline is not recorded")
    except BadInput as error:
        reporter.warn(str(error))
        return Roofline()
    if stages is None:
        return Roofline()
    metrics: Metrics = {names.MIN_BYTES_PER_STEP: total_bytes(stages), names.FLOPS_PER_STEP: total_flops(stages)}
    ceilings = found.ceilings
    if found.missing:
        reporter.warn(f"{names.ROOFLINE_MS.name} and {names.ROOFLINE_PCT.name} are not recorded: {found.missing}")
    parts = by_part(stages, ceilings)
    if ceilings:
        metrics[names.ROOFLINE_MS] = floor_ms(stages, ceilings)
        if measured_ms:
            metrics[names.ROOFLINE_PCT] = 100 * metrics[names.ROOFLINE_MS] / measured_ms
    record.update_metrics(metrics)
    record_optional(record, reporter, names.ARTIFACT_ROOFLINE_PARTS, lambda: parts_csv(parts))
    if ceilings and measured_ms:
        name = plan.used.run_name
        record_optional(record, reporter, names.ARTIFACT_ROOFLINE_STEP, lambda: roofline_png(parts, measured_ms, name))
    return Roofline(metrics, tuple(parts))

"""What every run records, whatever it measures: the host, the GPU's samples, how it ended."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console

from ttt_mlflow.config import Configuration, RunConfig
from ttt_mlflow.errors import Killed
from ttt_mlflow.measurement.ceilings import CardCeilings
from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown, known_ceilings
from ttt_mlflow.measurement.roofline import MEASURED_RATES, by_part, floor_ms, total_bytes, total_flops
from ttt_mlflow.measurement.verdict import Verdict
from ttt_mlflow.models.entry import ModelEntry, ModelRequest
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.report import clocks_chart
from ttt_mlflow.report.roofline_chart import parts_csv, roofline_png
from ttt_mlflow.telemetry import host, samples
from ttt_mlflow.telemetry.nvml import TelemetryUnavailable
from ttt_mlflow.telemetry.processes import processes_csv
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.workload import Workload

HOST = "environment/host.json"
TAG_FACTS = {
    "ttt.host": "hostname",
    "ttt.gpu_name": "gpu_name",
    "ttt.gpu_uuid": "gpu_uuid",
    "ttt.driver": "driver",
    "ttt.torch": "torch",
    "ttt.triton": "triton",
    "ttt.git_dirty": "git_dirty",
}
log = logging.getLogger(__name__)


def record_environment(journal: Journal, used: Configuration, device: torch.device) -> None:
    """The host's facts, its packages, and the tags that follow from them and from the configuration."""
    facts = host.host_facts(device)
    tags = {tag: _text(facts[fact]) for tag, fact in TAG_FACTS.items() if fact in facts}
    ours = {"ttt.config_id": used.config_id, "ttt.journal_id": journal.journal_id, "ttt.entry_point": used.entry_point}
    journal.update_tags(tags | ours)
    journal.write_artifact(HOST, json.dumps(facts, indent=1))
    journal.write_artifact("environment/packages.txt", host.package_list())


def open_sampler(device: torch.device, console: Console) -> NvmlSampler | None:
    """NVML's sampler for a GPU; None on a CPU, and where NVML is missing, which is said."""
    if device.type != "cuda":
        return None
    try:
        return NvmlSampler.open(host.device_uuid(device))
    except TelemetryUnavailable as error:
        console.print(f"Note: {error}", markup=False, highlight=False)
        log.warning("%s", str(error))
        return None


def record_samples(
    journal: Journal, sampler: NvmlSampler, device: torch.device, title: str
) -> dict[str, list[tuple[int, int, float]]]:
    """Write the samples and their picture, what the queries cost and who else was on the card.

    Returns the time series for MLflow's System metrics.
    """
    for query, reason in sampler.refused.items():
        log.warning("NVML does not answer %s: %s", query, reason)
    journal.write_artifact("telemetry/queries.csv", sampler.queries().to_csv(index=False))
    if others := sampler.other_processes():
        journal.write_artifact("telemetry/processes.csv", processes_csv(others))
    frame = sampler.frame()
    if frame.empty:
        return {}
    samples.write_samples_csv(frame, journal.artifact_path("telemetry/samples.csv"))
    clocks_chart.plot_clocks(frame, sampler.sections, journal.artifact_path("telemetry/clocks.png"), title)
    return samples.series(frame, device.index or 0)


def record_verdict(journal: Journal, verdict: Verdict) -> None:
    """The verdict as tags, and with all that led to it as an artifact."""
    journal.write_artifact("verdict.json", json.dumps(verdict.record(), indent=1))
    journal.update_tags(verdict.tags())
    log.info("verdict: %s", verdict.text)


def record_roofline(
    journal: Journal,
    console: Console,
    entry: ModelEntry,
    request: ModelRequest,
    used: RunConfig,
    measured_ms: float | None,
) -> dict[str, float]:
    """What a step (in prefill mode: the prompt) has to do, and how near ``measured_ms``, its mean time, came to that.

    Writes the parts and, where the card's ceilings are known and a time was measured, the picture.
    """
    if entry.work is None:
        return {}
    stages = entry.work(request, Workload(used.mode, used.batch, used.promptlen, used.genlen))
    metrics = {"min_bytes_per_step": total_bytes(stages), "flops_per_step": total_flops(stages)}
    ceilings = _ceilings(request, console)
    parts = by_part(stages, ceilings)
    journal.write_artifact("roofline/parts.csv", parts_csv(parts))
    if ceilings:
        metrics["roofline_ms"] = floor_ms(stages, ceilings)
        if measured_ms:
            metrics["roofline_pct"] = 100 * metrics["roofline_ms"] / measured_ms
            journal.write_artifact("roofline/step.png", roofline_png(parts, measured_ms, used.run_name))
    return metrics


def _ceilings(request: ModelRequest, console: Console) -> CardCeilings | None:
    """The card's, as far as they fit the dtype; None on a CPU, and where they are missing, which is said."""
    if request.device.type != "cuda":
        return None
    try:
        if request.dtype not in MEASURED_RATES:
            raise CeilingsUnknown(f"the card's matrix rate is measured in 16 bits, and the run is in {request.dtype}")
        return known_ceilings(request.device)
    except CeilingsUnknown as error:
        console.print(f"Note: roofline_ms and roofline_pct are not recorded: {error}", markup=False, highlight=False)
        log.warning("no roofline: %s", str(error))  # text: a kept record would keep the traceback's model
        return None


def record_end(
    journal: Journal, status: str, message: str | None, exit_code: int, describe: Callable[[Journal], str]
) -> None:
    """Give the journal its status, the description that goes with it, and the host's load at the end."""
    journal.set_status(status, message, exit_code)
    journal.update_tags({"ttt.status": status} | ({"ttt.message": message} if message else {}))
    journal.set_description(describe(journal))
    _record_load_at_the_end(journal)


@contextmanager
def killed_is_recorded(journal: Journal, describe: Callable[[Journal], str]) -> Iterator[None]:
    """Give the journal the status ``killed`` when a signal ends what is done inside, the recording of its end included.

    Otherwise the record would say that the run is still going on.
    """
    try:
        yield
    except Killed as killed:
        record_end(journal, "killed", f"ended by {killed}", killed.exit_code, describe)
        raise


def _record_load_at_the_end(journal: Journal) -> None:
    """The host's load again: what it was at the start stands in the same file, where the run came that far."""
    path, load = journal.artifacts / HOST, host.cpu_load_1min()
    if path.exists() and load is not None:
        facts = json.loads(path.read_text())
        journal.write_artifact(HOST, json.dumps(facts | {"cpu_load_1min_end": load}, indent=1))


def _text(fact: object) -> str:
    return str(fact).lower() if isinstance(fact, bool) else str(fact)

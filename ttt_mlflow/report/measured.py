"""What one run contributes to a comparison: a throughput, or the time of each kernel with each batch."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ttt_mlflow import names
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.comparison import Quantity
from ttt_mlflow.record.identity import pairing_keys
from ttt_mlflow.record.micro_results import CellResult, MicroResults
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import RecordedRun


@dataclass(frozen=True)
class Measured:
    """One measured value of one run.

    key: the same for the same configuration. title: the configuration for people. unit: of the values.
    read: reads the raw values, tokens/s of each pass or µs of each sample; raises BadInput if there is none.
    status: ok, oom, error, killed or running. verdict: valid, invalid, unjudged, or None. reasons: of the verdict.
    """

    key: str
    title: str
    run: RecordedRun
    quantity: Quantity
    unit: str
    read: Callable[[], Sequence[float]]
    status: str
    verdict: str | None
    reasons: str


def measured_in(runs: Iterable[RecordedRun]) -> list[Measured]:
    """What ``runs`` measured: one value for a decode or prefill run, one for each kernel and batch of a micro run."""
    runs = list(runs)
    keys = pairing_keys(run for run in runs if run.entry_point != MicroConfig.entry_point)
    found: list[Measured] = []
    for run in runs:
        found += _kernels(run) if run.entry_point == MicroConfig.entry_point else [_model(run, keys[run.id])]
    return found


def _model(run: RecordedRun, key: str) -> Measured:
    tags = run.tags
    return Measured(
        key=key,
        title=run.name,
        run=run,
        quantity="rate",
        unit=names.DECODE_TOKENS_PER_S.unit,
        read=lambda: throughputs(run),
        status=run.status,
        verdict=tags.get(names.TAG_VERDICT.name),
        reasons=tags.get(names.TAG_REASONS.name, ""),
    )


def _kernels(run: RecordedRun) -> list[Measured]:
    path = run.artifact(names.ARTIFACT_MICRO_SAMPLES)
    if path is None:
        what = names.ARTIFACT_MICRO_SAMPLES.path
        raise BadInput(f"{run.id}: the run has no {what} to compare (status {run.status}); choose another run")
    results = MicroResults.read(path)
    settings = run.settings
    shape = {name: settings.get(name) for name in ("heads", "head_dim", "dtype", "device")}
    for name in ("intermediate", "vocab"):
        (before,) = MicroConfig.added[name]
        if settings.get(name, before) != before:
            shape[name] = settings[name]
    return [
        Measured(
            key=json.dumps({"kernel": cell.kernel, "batch": cell.batch, **_prompt(cell), **shape}, sort_keys=True),
            title=" ".join([f"{cell.kernel} b{cell.batch}", *(f"p{tokens}" for tokens in _prompt(cell).values())]),
            run=run,
            quantity="time",
            unit=names.KERNEL_US.unit,
            read=lambda us=cell.us: us,  # type: ignore[misc]
            status=cell.status,
            verdict=cell.verdict,
            reasons=",".join(cell.reasons),
        )
        for cell in results.cells
    ]


def _prompt(cell: CellResult) -> dict[str, int]:
    """The length of the prompt, if the kernel took one."""
    return {} if cell.promptlen is None else {"promptlen": cell.promptlen}

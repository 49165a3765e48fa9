"""What one run contributes to a comparison: a throughput, or the time of each kernel with each batch."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ttt_mlflow import names
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.comparison import Quantity
from ttt_mlflow.record.identity import identity_of, known_settings, pairing_keys
from ttt_mlflow.record.micro_results import MicroResults
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import RecordedRun

# settings of a micro-benchmark that each of its kernels is timed with
OF_ALL_KERNELS = ("heads", "head_dim", "dtype", "device", "intermediate", "vocab")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Measured:
    """One measured value of one run.

    key: the same for the same configuration. title: the configuration for people. unit: of the values.
    identity: the values that make the configuration, by name. settings: the same values for people, if they are known.
    read: reads the raw values, tokens/s of each pass or µs of each sample; raises BadInput if there is none.
    status: ok, oom, error, killed or running. verdict: valid, invalid, unjudged, or None. reasons: of the verdict.
    """

    key: str
    title: str
    identity: Mapping[str, object]
    settings: Mapping[str, str]
    run: RecordedRun
    quantity: Quantity
    unit: str
    read: Callable[[], Sequence[float]]
    status: str
    verdict: str | None
    reasons: str

    def setting(self, name: str) -> str:
        return self.settings.get(name, UNKNOWN)


def measured_in(runs: Iterable[RecordedRun]) -> list[Measured]:
    """What ``runs`` measured: one value for a decode or prefill run, one for each kernel and batch of a micro run.

    Different configurations among them have different titles.
    """
    runs = list(runs)
    keys = pairing_keys(run for run in runs if run.entry_point != MicroConfig.entry_point)
    found: list[Measured] = []
    for run in runs:
        found += _kernels(run) if run.entry_point == MicroConfig.entry_point else [_model(run, keys[run.id])]
    return _told_apart(found)


def differing(several: Sequence[Measured]) -> list[str]:
    """The names of the settings that are not the same in all of them."""
    names_found = dict.fromkeys(name for one in several for name in one.identity)
    return [name for name in names_found if len({setting_text(one.identity.get(name)) for one in several}) > 1]


def setting_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _told_apart(found: Sequence[Measured]) -> list[Measured]:
    """``found`` with titles that have what differs, where different configurations would have the same title."""
    named: dict[str, list[Measured]] = {}
    for one in found:
        named.setdefault(one.title, []).append(one)
    apart = {title: differing(several) for title, several in named.items() if len({one.key for one in several}) > 1}
    return [
        replace(one, title=" ".join([one.title, *(f"{name}={one.setting(name)}" for name in apart.get(one.title, ()))]))
        for one in found
    ]


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: setting_text(value) for name, value in values.items()}


def _model(run: RecordedRun, key: str) -> Measured:
    tags = run.tags
    return Measured(
        key=key,
        title=run.name,
        identity=identity_of(run),
        settings=_texts(known_settings(run)),
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
    known = known_settings(run)
    shape = {name: known[name] for name in OF_ALL_KERNELS if name in known}
    found = []
    for cell in results.cells:
        identity = {"kernel": cell.kernel, "batch": cell.batch, "promptlen": cell.promptlen, **shape}
        one = Measured(
            key=json.dumps(identity, sort_keys=True),
            title=f"{cell.kernel} b{cell.batch}" + (f" p{cell.promptlen}" if cell.promptlen is not None else ""),
            identity=identity,
            settings=_texts(identity),
            run=run,
            quantity="time",
            unit=names.KERNEL_US.unit,
            read=lambda us=cell.us: us,  # type: ignore[misc]
            status=cell.status,
            verdict=cell.verdict,
            reasons=",".join(cell.reasons),
        )
        found.append(one)
    return found

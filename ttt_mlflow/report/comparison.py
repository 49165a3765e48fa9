"""Compares two recorded runs: their throughput, and what else differs between them.

Only records are read. The verdict on each run was given when it was measured (``ttt.verdict``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.comparison import Comparison, RunToRun, compare
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import RecordedRun, read_object

# facts of environment/host.json about the hardware, the most important first
HARDWARE = {"gpu_name": "GPU", "gpu_uuid": "GPU UUID", "cpu_model": "CPU", "hostname": "host", "driver": "driver"}
SOFTWARE = {"torch": "torch", "triton": "triton", "cuda": "CUDA", "mamba_ssm": "mamba-ssm", "git_commit": "commit"}


@dataclass(frozen=True)
class RunComparison:
    """Decode throughput (in prefill mode, prefill throughput) of two runs in tokens/s.

    differences: other differences between the runs, one line each. The order is: hardware and driver, verdicts that are
    not valid, parameters, software. Empty if there is no difference.
    """

    comparison: Comparison
    differences: list[str]


def compare_runs(
    baseline: RecordedRun,
    candidate: RecordedRun,
    *,
    include_invalid: bool = False,
    run_to_run: RunToRun | None = None,
) -> RunComparison:
    """Compare two decode runs, or two prefill runs, by their complete passes.

    Raises BadInput for an invalid run, unless ``include_invalid``; for a run without complete passes; and for two runs
    that measured different things.
    """
    runs = {"baseline": baseline, "candidate": candidate}
    for side, run in runs.items():
        _check_kind(side, run)
        if not include_invalid:
            _check_verdict(side, run)
    modes = {side: run.settings.get("mode") for side, run in runs.items()}
    if modes["baseline"] != modes["candidate"]:
        raise BadInput(
            f"the baseline {baseline.id} measured mode={modes['baseline']} and the candidate "
            f"{candidate.id} mode={modes['candidate']}: compare two runs of the same mode"
        )
    comparison = compare([throughputs(baseline)], [throughputs(candidate)], quantity="rate", run_to_run=run_to_run)
    facts = {side: read_object(run, names.ARTIFACT_HOST) for side, run in runs.items()}
    differences = _different_facts(facts, HARDWARE)
    differences += [line for side, run in runs.items() for line in _doubts(side, run)]
    differences += _different_configuration(baseline, candidate)
    differences += _different_facts(facts, SOFTWARE)
    return RunComparison(comparison, differences)


def _check_kind(side: str, run: RecordedRun) -> None:
    if run.entry_point != RunConfig.entry_point:
        raise BadInput(
            f"the {side} {run.id} is a record of {run.entry_point}: compare two runs of "
            f"{RunConfig.entry_point}, which `ttt-mlflow run` makes"
        )


def _check_verdict(side: str, run: RecordedRun) -> None:
    tags = run.tags
    if tags.get(names.TAG_VERDICT.name) == "invalid":
        reasons = tags.get(names.TAG_REASONS.name) or "no reason recorded"
        raise BadInput(
            f"the {side} {run.id} ({run.name}) is invalid: {reasons}; measure it again, or include invalid runs "
            "explicitly"
        )


def _doubts(side: str, run: RecordedRun) -> list[str]:
    """The reasons for which this run's number is not known to be valid; empty for a valid run."""
    tags, status = run.tags, run.status
    lines = [] if status == "ok" else [f"the {side} ended early: its status is {status}"]
    verdict = tags.get(names.TAG_VERDICT.name)
    if verdict is None:
        return [*lines, f"the {side} has no verdict in its record"]
    if verdict == "valid":
        return lines
    reasons = tags.get(names.TAG_REASONS.name)
    return [*lines, f"the {side} is {verdict}" + (f": {reasons}" if reasons else "")]


def _different_configuration(baseline: RecordedRun, candidate: RecordedRun) -> list[str]:
    """One line for each parameter that differs, except those that only set how the run was measured."""
    left, right = baseline.settings, candidate.settings
    names = [name for name in RunConfig.model_fields if name not in RunConfig.how_measured]
    return [f"{name}: {left.get(name)} and {right.get(name)}" for name in names if left.get(name) != right.get(name)]


def _different_facts(facts: Mapping[str, Mapping[str, Any]], named: Mapping[str, str]) -> list[str]:
    """One line for each fact that differs between the hosts. A fact that one host lacks is a difference."""
    values = {label: (facts["baseline"].get(name), facts["candidate"].get(name)) for name, label in named.items()}
    return [
        f"{label}: {left or 'unknown'} and {right or 'unknown'}"
        for label, (left, right) in values.items()
        if left != right
    ]

"""Two recorded runs against each other: what differs between them besides their speed, and whether that does.

Reads records only. Which of two numbers can be trusted at all was judged when they were measured (``ttt.verdict``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.comparison import RUN_TO_RUN_PCT, Comparison, compare
from ttt_mlflow.record.passes import read_object, throughputs
from ttt_mlflow.record.recorded_run import RecordedRun

# facts of environment/host.json: what measured, in the order of what matters most
HARDWARE = {"gpu_name": "GPU", "gpu_uuid": "GPU's UUID", "cpu_model": "CPU", "hostname": "host", "driver": "driver"}
SOFTWARE = {"torch": "torch", "triton": "triton", "cuda": "CUDA", "mamba_ssm": "mamba-ssm", "git_commit": "commit"}


@dataclass(frozen=True)
class RunComparison:
    """Decode throughput (in prefill mode that of the prompt) in tokens/s of two runs.

    differences: what a person should know before the number, one line each: other hardware or driver first, then what
    is not judged to be valid, then another configuration, then other software. Empty for the same thing twice.
    """

    comparison: Comparison
    differences: list[str]


def compare_runs(
    baseline: RecordedRun,
    candidate: RecordedRun,
    *,
    include_invalid: bool = False,
    run_to_run_pct: float = RUN_TO_RUN_PCT,
) -> RunComparison:
    """Compare two decode (or two prefill) runs by their complete passes.

    Raises BadInput for a run judged invalid, unless ``include_invalid``; for one without complete passes; and for
    two that measured different things.
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
            f"{candidate.id} mode={modes['candidate']}: compare two runs of one mode"
        )
    comparison = compare(throughputs(baseline), throughputs(candidate), quantity="rate", run_to_run_pct=run_to_run_pct)
    facts = {side: read_object(run, names.ARTIFACT_HOST) for side, run in runs.items()}
    differences = _different_facts(facts, HARDWARE)
    differences += [line for side, run in runs.items() for line in _doubts(side, run)]
    differences += _different_configuration(baseline, candidate)
    differences += _different_facts(facts, SOFTWARE)
    return RunComparison(comparison, differences)


def _check_kind(side: str, run: RecordedRun) -> None:
    if run.entry_point != RunConfig.entry_point:
        raise BadInput(
            f"the {side} {run.id} is the record of {run.entry_point}: compare two runs of "
            f"{RunConfig.entry_point}, that is of `ttt-mlflow run`"
        )


def _check_verdict(side: str, run: RecordedRun) -> None:
    tags = run.tags
    if tags.get(names.TAG_VERDICT.name) == "invalid":
        reasons = tags.get(names.TAG_REASONS.name) or "no reason recorded"
        raise BadInput(
            f"the {side} {run.id} ({run.name}) was judged invalid: {reasons}; measure it again, "
            "or ask for invalid runs to be included"
        )


def _doubts(side: str, run: RecordedRun) -> list[str]:
    """Why this run's number is not one that was judged and found good; nothing for one that was."""
    tags, status = run.tags, run.status
    lines = [] if status == "ok" else [f"the {side}'s status is {status}: it ended early"]
    verdict = tags.get(names.TAG_VERDICT.name)
    if verdict is None:
        return [*lines, f"the {side} was never judged: its record has no verdict"]
    if verdict == "valid":
        return lines
    reasons = tags.get(names.TAG_REASONS.name)
    return [*lines, f"the {side} is {verdict}" + (f": {reasons}" if reasons else "")]


def _different_configuration(baseline: RecordedRun, candidate: RecordedRun) -> list[str]:
    """One line a parameter in which the two differ; how long and with what was measured is no part of that."""
    left, right = baseline.settings, candidate.settings
    names = [name for name in RunConfig.model_fields if name not in RunConfig.how_measured]
    return [f"{name}: {left.get(name)} and {right.get(name)}" for name in names if left.get(name) != right.get(name)]


def _different_facts(facts: Mapping[str, Mapping[str, Any]], named: Mapping[str, str]) -> list[str]:
    """One line a fact in which the two hosts differ; a fact that one of them does not have is a difference."""
    values = {label: (facts["baseline"].get(name), facts["candidate"].get(name)) for name, label in named.items()}
    return [
        f"{label}: {left or 'unknown'} and {right or 'unknown'}"
        for label, (left, right) in values.items()
        if left != right
    ]

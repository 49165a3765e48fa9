"""What ``ab`` and ``rerun`` need of a comparison, in one place: the interval of a side's runs, and the answer."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ttt_mlflow import names
from ttt_mlflow.measurement.comparison import Comparison, compare
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun
from ttt_mlflow.report.comparison import compare_runs

CANNOT_TELL = "cannot tell"
SLOWER_EXIT, CANNOT_TELL_EXIT = 1, 5


@dataclass(frozen=True)
class Question:
    """What a comparison decides. Percentages are of the baseline.

    fail_above_pct: None without a gate. resolution_pct: half-width of the confidence interval above which nothing can
    be told. inconclusive_ok: exit code 0 for it. include_invalid: compare invalid runs like others.
    """

    resolution_pct: float = 1.0
    fail_above_pct: float | None = None
    inconclusive_ok: bool = False
    include_invalid: bool = False


@dataclass(frozen=True)
class Answer:
    """word: what ``ttt.comparison`` has. exit_code: of the gate, 0 without one. The rest: the comparison to read."""

    word: str
    exit_code: int
    text: str
    markdown: str
    html: str
    json: str


def interval(baseline: Sequence[Journal], candidate: Sequence[Journal], question: Question) -> Comparison | None:
    """The candidate's runs against the baseline's, with their variance from run to run; None below two runs a side.

    Only the runs that the answer will rest on: without ``include_invalid``, invalid runs stay out.
    """
    sides = [[LocalRun(journal) for journal in side] for side in (baseline, candidate)]
    values = [[throughputs(run) for run in side if _counts(run, question)] for side in sides]
    return _compared(*values) if min(map(len, values)) >= 2 else None


def answer(baseline: Sequence[RecordedRun], candidate: Sequence[RecordedRun], question: Question) -> Answer:
    """Compare the runs of two sides. All runs of a side are repetitions of its configuration."""
    lines: list[str] = []
    sides = [[run for run in side if run.status == "ok" and _counts(run, question)] for side in (baseline, candidate)]
    word, code = CANNOT_TELL, 0 if question.fail_above_pct is None or question.inconclusive_ok else CANNOT_TELL_EXIT
    if all(sides):
        lines += compare_runs(sides[0][0], sides[1][0], include_invalid=True).differences
        if min(map(len, sides)) > 1:
            found = _compared(*([throughputs(run) for run in side] for side in sides))
        else:
            found = compare(throughputs(sides[0][0]), throughputs(sides[1][0]))
        word = found.word if found.significant or found.low_pct is not None else CANNOT_TELL
        lines.append(str(found))
        if word != CANNOT_TELL:
            above = question.fail_above_pct
            code = SLOWER_EXIT if above is not None and word == "slower" and abs(found.change_pct) > above else 0
    counted = ", ".join(f"{len(side)} runs" for side in sides)
    text = "\n".join([*lines, f"{word} ({counted})"])
    page = f"<!DOCTYPE html><meta charset='utf-8'><title>Comparison</title><pre>{html.escape(text)}</pre>"
    return Answer(word, code, text, "\n\n".join(lines), page, json.dumps({"answer": word, "lines": lines}))


def _counts(run: RecordedRun, question: Question) -> bool:
    return question.include_invalid or run.tags.get(names.TAG_VERDICT.name) != "invalid"


def _compared(baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]]) -> Comparison:
    """Each run counts once, by its median, so that the variance is that from run to run."""
    return compare([median(run) for run in baseline], [median(run) for run in candidate], run_to_run_pct=0)

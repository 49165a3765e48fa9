"""What ``ab`` and ``rerun`` need of a comparison: the confidence interval while runs are made, and the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttt_mlflow import names
from ttt_mlflow.app.compare import report_of
from ttt_mlflow.measurement.comparison import Comparison, compare
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun
from ttt_mlflow.report.comparison import ComparisonOptions
from ttt_mlflow.report.comparison_export import comparison_json
from ttt_mlflow.report.comparison_page import comparison_html
from ttt_mlflow.report.comparison_text import comparison_markdown, comparison_text
from ttt_mlflow.report.gate import Gate


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
    """The candidate's runs against the baseline's, with their variance from run to run; None if a side has no run.

    Only the runs that the answer will rest on: without ``include_invalid``, invalid runs stay out.
    """
    sides = [[LocalRun(journal) for journal in side] for side in (baseline, candidate)]
    values = [[throughputs(run) for run in side if _counts(run, question)] for side in sides]
    return compare(values[0], values[1], resolution_pct=question.resolution_pct) if all(values) else None


def answer(
    baseline: Sequence[RecordedRun],
    candidate: Sequence[RecordedRun],
    question: Question,
    labels: tuple[str, str] = ("baseline", "candidate"),
) -> Answer:
    """Compare the runs of two sides. All runs of a side are repetitions of its configuration."""
    options = ComparisonOptions(question.resolution_pct, include_invalid=question.include_invalid, one_pair=True)
    gate = Gate(question.fail_above_pct, question.inconclusive_ok)
    report = report_of([(labels[0], baseline), (labels[1], candidate)], options, gate)
    assert report.decision
    return Answer(
        report.compared.answer,
        report.decision.exit_code,
        comparison_text(report),
        comparison_markdown(report),
        comparison_html(report),
        comparison_json(report),
    )


def _counts(run: RecordedRun, question: Question) -> bool:
    return question.include_invalid or run.tags.get(names.TAG_VERDICT.name) != "invalid"

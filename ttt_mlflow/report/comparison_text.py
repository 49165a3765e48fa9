"""A comparison for people: text for the terminal, and Markdown that fits the comment of a pull request."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ttt_mlflow.measurement.comparison import Comparison
from ttt_mlflow.numerals import significant
from ttt_mlflow.report.comparison import CANNOT_TELL, Beside, Compared, Pair
from ttt_mlflow.report.gate import Decision
from ttt_mlflow.report.profile_diff import ProfileDiff, diff_markdown, diff_text
from ttt_mlflow.report.text import escaped, markdown_table, number, text_table

COLUMNS = ("configuration", "answer", "change [95 % confidence interval]", "baseline", "candidate", "runs")
# the headings of conditions: those in which the sides differ, and those that limit both
DIFFERENT, OF_BOTH = "Not the same on both sides", "Limits of both sides"
MARKS = {"faster": "🟢 ", "slower": "🔴 ", "no significant difference": "", CANNOT_TELL: "❔ "}


@dataclass(frozen=True)
class Report:
    """Everything that is said about a comparison.

    baseline, candidate: what each side is, in one line. compared: the answer. decision: of the gate, None without one.
    left_out: one line for each run of a side that takes no part. profiles: title of a pair -> its change by kernel.
    """

    baseline: str
    candidate: str
    compared: Compared
    decision: Decision | None = None
    left_out: tuple[str, ...] = ()
    profiles: tuple[tuple[str, ProfileDiff], ...] = ()


def comparison_text(report: Report) -> str:
    """The comparison for a terminal."""
    compared = report.compared
    blocks = ["\n".join([f"Baseline:  {report.baseline}", f"Candidate: {report.candidate}"])]
    blocks += [_block(title, lines) for title, lines in _conditions(compared)]
    columns, rows = _table(compared)
    blocks.append(text_table(columns, rows, columns[2:]))
    blocks += [_block(title, lines) for title, lines in _sections(report)]
    blocks += [f"{title}\n{diff_text(diff)}" for title, diff in report.profiles]
    blocks.append(_conclusion(report))
    return "\n\n".join(block for block in blocks if block)


def comparison_markdown(report: Report) -> str:
    """The comparison for the comment of a pull request, and for the description of an MLflow run."""
    compared = report.compared
    columns, rows = _table(compared, MARKS)
    lines = [f"**{escaped(headline(compared))}**", "", f"Baseline: {escaped(report.baseline)}", ""]
    lines += [f"Candidate: {escaped(report.candidate)}", ""]
    lines += _lists(_conditions(compared))
    lines += [*markdown_table(columns, rows, texts=2), ""]
    lines += _lists(_sections(report))
    for title, diff in report.profiles:
        lines += [
            "<details>",
            f"<summary>Kernels of {escaped(title)}</summary>",
            "",
            diff_markdown(diff),
            "</details>",
            "",
        ]
    return "\n".join([*lines, *map(escaped, _conclusion(report).split("\n")), ""])


def headline(compared: Compared) -> str:
    """The answer in one line, for example ``faster: ttt-1b mlp_1_dual_triton b128 +1.32 %``."""
    if len(compared.pairs) == 1:
        (pair,) = compared.pairs
        change = f" {pair.comparison.change_pct:+.2f} %" if pair.comparison else ""
        return f"{pair.answer}: {pair.title}{change}"
    counts = {word: sum(pair.answer == word for pair in compared.pairs) for word in MARKS}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def change_text(comparison: Comparison | None) -> str:
    """For example ``+1.32 % [+0.81, +1.84]``; empty without a comparison."""
    if comparison is None:
        return ""
    if comparison.low_pct is None or comparison.high_pct is None:
        return f"{comparison.change_pct:+.2f} %"
    return f"{comparison.change_pct:+.2f} % [{comparison.low_pct:+.2f}, {comparison.high_pct:+.2f}]"


def beside_text(beside: Beside) -> str:
    """For example ``peak memory 12.3 → 11.9 10⁹ bytes (-3.25 %, better)``."""
    left, right = ("not measured" if value is None else number(value) for value in (beside.baseline, beside.candidate))
    change = beside.change_pct
    said = "" if change is None else f" ({change:+.2f} %{f', {beside.word}' if beside.word else ''})"
    return f"{beside.metric.label} {left} → {right} {beside.metric.unit}{said}"


def power_text(pair: Pair, resolution_pct: float) -> str:
    """What this comparison could have found, and how many runs would find more. Empty for a difference.

    Only what was computed: with too few runs for an answer, neither is known.
    """
    comparison = pair.comparison
    if comparison is None or pair.answer in ("faster", "slower"):
        return ""
    parts = []
    if comparison.smallest_change_pct is not None:
        parts.append(f"the smallest change that it finds is {significant(comparison.smallest_change_pct, 2)} %")
    if comparison.runs_needed:
        parts.append(f"{comparison.runs_needed:,} runs a side would find {resolution_pct:g} %")
    return ", ".join(parts)


def _table(compared: Compared, marks: Mapping[str, str] | None = None) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows. The unit is in the heading if all pairs have the same."""
    units = {pair.unit for pair in compared.pairs}
    shared = f", {units.pop()}" if len(units) == 1 else ""
    columns = [f"{column}{shared}" if column in ("baseline", "candidate") else column for column in COLUMNS]
    return columns, [_row(pair, (marks or {}).get(pair.answer, ""), not shared) for pair in compared.pairs]


def _row(pair: Pair, mark: str, with_unit: bool) -> tuple[str, ...]:
    answer, runs = mark + pair.answer, f"{len(pair.baseline)} : {len(pair.candidate)}"
    if pair.comparison is None:
        return pair.title, answer, "", "", "", runs
    values = (pair.comparison.baseline, pair.comparison.candidate)
    sides = [_with_interval(value, interval) for value, interval in zip(values, pair.intervals, strict=True)]
    unit = f" {pair.unit}" if with_unit else ""
    return pair.title, answer, change_text(pair.comparison), *(f"{side}{unit}" for side in sides), runs


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return number(value)
    return f"{number(value)} ±{significant(50 * (interval[1] - interval[0]) / value, 2)} %"


def _conditions(compared: Compared) -> list[tuple[str, list[str]]]:
    """What differs, and what limits both sides. First the conditions of all pairs, then those of single pairs."""
    common = compared.common_conditions
    found = [(condition, str(condition)) for condition in common]
    for pair in compared.pairs:
        found += [(one, f"{pair.title}: {one}") for one in pair.conditions if one not in common]
    return [
        (title, [line for condition, line in found if condition.differs == differs])
        for title, differs in ((DIFFERENT, True), (OF_BOTH, False))
    ]


def _sections(report: Report) -> list[tuple[str, list[str]]]:
    compared = report.compared
    several = len(compared.pairs) > 1
    reasons, beside, left_out, sources = [], [], [*report.left_out], []
    why = "Why"
    for pair in compared.pairs:
        power = power_text(pair, compared.options.resolution_pct)
        said = "; ".join(filter(None, [pair.why, power]))
        if power:
            why = "Why, and what it could have found"
        if said:
            reasons.append(f"{pair.title}: {said}" if several else said)
        named = [beside_text(one) for one in pair.beside]
        beside += [f"{pair.title}: {'; '.join(named)}"] if several and named else named
        left_out += [f"{pair.title}: {line}" if several else line for line in pair.left_out]
        if pair.comparison and pair.comparison.run_to_run:
            known = pair.comparison.run_to_run
            sources.append(f"±{significant(known.pct, 2)} % between runs, {known.source}")
    return [
        (why, reasons),
        ("Beside it", beside),
        ("Run-to-run standard deviation in the confidence interval", list(dict.fromkeys(sources))),
        ("Left out", left_out),
        ("Only in the baseline", list(compared.alone_baseline)),
        ("Only in the candidate", list(compared.alone_candidate)),
    ]


def _lists(sections: Sequence[tuple[str, list[str]]]) -> Iterator[str]:
    """The sections in Markdown, without empty ones."""
    for title, found in sections:
        if found:
            yield from (f"{title}:", "", *(f"- {escaped(line)}" for line in found), "")


def _block(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)]) if lines else ""


def _conclusion(report: Report) -> str:
    compared = report.compared
    lines = [f"Answer: {headline(compared)}"]
    if (mean := compared.geometric_mean_pct) is not None:
        lines[0] += f"; geometric mean {mean:+.2f} % in speed"
    if report.decision and report.decision.text:
        lines.append(report.decision.text)
    return "\n".join(lines)

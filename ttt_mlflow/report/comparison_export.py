"""A comparison for programs: JSON, and JUnit's XML for continuous integration."""

import math
from typing import Any
from xml.etree import ElementTree

from ttt_mlflow.report.comparison import CANNOT_TELL, Pair
from ttt_mlflow.report.comparison_text import Report, change_text, headline, power_text
from ttt_mlflow.report.gate import Gate, too_slow
from ttt_mlflow.report.text import json_text


def comparison_data(report: Report) -> dict[str, Any]:
    """The whole comparison as data. Percentages are of the baseline. A value that is not known is null."""
    compared = report.compared
    return {
        "answer": compared.answer,
        "headline": headline(compared),
        "baseline": report.baseline,
        "candidate": report.candidate,
        "resolution_pct": compared.options.resolution_pct,
        "geometric_mean_pct": compared.geometric_mean_pct,
        "exit_code": report.decision.exit_code if report.decision else 0,
        "gate": report.decision.text if report.decision else "",
        "reasons": list(report.decision.reasons) if report.decision else [],
        "conditions": [str(condition) for condition in compared.common_conditions],
        "pairs": [_pair(pair, compared.options.resolution_pct) for pair in compared.pairs],
        "only_in_baseline": list(compared.alone_baseline),
        "only_in_candidate": list(compared.alone_candidate),
        "left_out": list(report.left_out),
    }


def comparison_json(report: Report) -> str:
    return json_text(comparison_data(report))


def comparison_junit(report: Report, gate: Gate) -> str:
    """One test case for each pair: failed if it is slower than the gate allows, skipped if nothing can be told."""
    cases = [_case(pair, report, gate) for pair in report.compared.pairs]
    if not gate.allow_missing:
        for title in report.compared.alone_baseline:
            case = ElementTree.Element("testcase", classname="ttt-mlflow compare", name=_clean(title))
            ElementTree.SubElement(case, "skipped", message="the candidate has no such run")
            cases.append(case)
    counts = {word: str(sum(case.find(word) is not None for case in cases)) for word in ("failure", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        name="ttt-mlflow compare",
        tests=str(len(cases)),
        failures=counts["failure"],
        skipped=counts["skipped"],
        errors="0",
    )
    suite.extend(cases)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(pair: Pair, report: Report, gate: Gate) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname="ttt-mlflow compare", name=_clean(pair.title))
    said = "; ".join(filter(None, [f"{pair.answer} {change_text(pair.comparison)}".strip(), pair.why]))
    if gate.fail_above_pct is not None and too_slow(pair, gate.fail_above_pct):
        ElementTree.SubElement(case, "failure", message=_clean(f"{said}; the limit is {gate.fail_above_pct:g} %"))
    elif pair.answer == CANNOT_TELL or not pair.counts:
        ElementTree.SubElement(case, "skipped", message=_clean(said))
    conditions = "\n".join(map(str, pair.conditions))
    output = ElementTree.SubElement(case, "system-out")
    output.text = _clean(
        "\n".join(filter(None, [said, power_text(pair, report.compared.options.resolution_pct), conditions]))
    )
    return case


def _pair(pair: Pair, resolution_pct: float) -> dict[str, Any]:
    one = pair.comparison
    return {
        "title": pair.title,
        "answer": pair.answer,
        "why": pair.why,
        "counts": pair.counts,
        "quantity": one and one.quantity,
        "unit": pair.unit,
        "baseline": one and one.baseline,
        "candidate": one and one.candidate,
        "baseline_interval": pair.intervals[0],
        "candidate_interval": pair.intervals[1],
        "change_pct": one and one.change_pct,
        "low_pct": one and _finite(one.low_pct),
        "high_pct": one and _finite(one.high_pct),
        "speed_pct": pair.speed_pct,
        "p_value": one and one.p_value,
        "smallest_change_pct": one and one.smallest_change_pct,
        "runs_needed": one and one.runs_needed,
        "run_to_run_pct": one and one.run_to_run and one.run_to_run.pct,
        "run_to_run_source": one and one.run_to_run and one.run_to_run.source,
        "baseline_runs": [each.run.id for each in pair.baseline],
        "candidate_runs": [each.run.id for each in pair.candidate],
        "conditions": [
            {"name": one.name, "baseline": one.baseline, "candidate": one.candidate, "text": str(one)}
            for one in pair.conditions
        ],
        "left_out": list(pair.left_out),
        "beside": [
            {
                "metric": each.metric.name,
                "label": each.metric.label,
                "unit": each.metric.unit,
                "baseline": each.baseline,
                "candidate": each.candidate,
                "change_pct": each.change_pct,
                "word": each.word,
            }
            for each in pair.beside
        ],
        "power": power_text(pair, resolution_pct),
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: an end that is not known."""
    return value if value is not None and math.isfinite(value) else None


def _clean(text: str) -> str:
    """``text`` without the control characters that XML does not allow."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)

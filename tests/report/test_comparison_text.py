"""The comparison as text, Markdown, JSON, JUnit and HTML."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.compared import CPU, H200, passes_around, recorded
from tests.report.browser import BROWSER, rendered
from ttt_mlflow.report.comparison import ComparisonOptions, compare_sides
from ttt_mlflow.report.comparison_export import comparison_data, comparison_json, comparison_junit
from ttt_mlflow.report.comparison_page import comparison_html
from ttt_mlflow.report.comparison_text import Report, comparison_markdown, comparison_text
from ttt_mlflow.report.gate import Gate, decide
from ttt_mlflow.report.profile_diff import ProfiledStep, profile_diff

GATE = Gate(2.0)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    left = [
        recorded(tmp_path, passes_around(1000 * b), config={"batch": b}, values={"peak_memory_allocated_gb": b})
        for b in (1, 2, 3)
    ]
    right = [
        recorded(
            tmp_path,
            passes_around(970, seed=1),
            config={"batch": 1},
            host={**H200, "driver": "590"},
            values={"peak_memory_allocated_gb": 1.5},
        ),
        recorded(tmp_path, [], config={"batch": 2}, status="oom", host={**H200, "driver": "590"}),
    ]
    compared = compare_sides(left, right, ComparisonOptions())
    step = ProfiledStep("run A", "cuda", 2.0, 0.5, {("gemm", "head"): 1.5})
    faster = ProfiledStep("run B", "cuda", 1.5, 0.5, {("gemm", "head"): 1.0})
    profiles = ((compared.pairs[0].title, profile_diff(step, faster)),)
    return Report(
        "v1.0",
        "<script>alert(1)</script> | b",
        compared,
        decide(compared, GATE),
        ("candidate x: still running",),
        profiles,
    )


def test_text(report: Report) -> None:
    text = comparison_text(report)
    assert text.index("driver: 580.159.04 and 590") < text.index("slower"), "conditions come before any number"
    for expected in (
        "Baseline:  v1.0",
        "the candidate did not fit into memory",
        "peak memory 1 → 1.5 10⁹ bytes (+50.00 %, worse)",
        "Only in the baseline:",
        "candidate x: still running",
        "a profiled step changed from 2 ms to 1.5 ms",
        "Gate: failed",
        "±0.",
    ):
        assert expected in text


def test_markdown(report: Report) -> None:
    text = comparison_markdown(report)
    assert text.startswith("**1 slower, 1 cannot tell**")
    assert "🔴 slower" in text
    assert "❔ cannot tell" in text
    assert "<summary>Kernels of" in text
    assert "\\| b" in text
    assert "<script>" not in text


def test_json(report: Report) -> None:
    data = json.loads(comparison_json(report))
    assert (data["answer"], data["exit_code"]) == ("slower", 1)
    first, second = data["pairs"]
    assert first["low_pct"] < first["change_pct"] < first["high_pct"] < 0
    assert first["conditions"] == [
        {"name": "driver", "baseline": "580.159.04", "candidate": "590", "text": "driver: 580.159.04 and 590"}
    ]
    assert (second["baseline"], second["change_pct"], second["answer"]) == (None, None, "cannot tell")


def test_junit(report: Report) -> None:
    suite = ElementTree.fromstring(comparison_junit(report, GATE))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "2")
    assert "the limit is 2 %" in suite.findall("testcase")[0].find("failure").get("message")  # type: ignore[union-attr,operator]
    without = ElementTree.fromstring(comparison_junit(report, Gate(allow_missing=True)))
    assert (without.get("tests"), without.get("failures")) == ("2", "0")


def test_page_holds_no_html_of_a_record(report: Report) -> None:
    page = comparison_html(report)
    assert "<script>alert" not in page
    assert "\\u003cscript>alert(1)" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_with_too_few_runs_there_is_no_claim_of_what_would_be_found(tmp_path: Path) -> None:
    left, right = (recorded(tmp_path, passes_around(1000), host=CPU) for _ in range(2))
    compared = compare_sides([left], [right], ComparisonOptions())
    found = Report("a", "b", compared, decide(compared, Gate()))
    text, (pair,) = comparison_text(found), comparison_data(found)["pairs"]
    assert "3 runs a side are needed" in text
    assert "would find" not in text
    assert (pair["power"], pair["runs_needed"], pair["smallest_change_pct"]) == ("", None, None)
    assert "Gate" not in text


def test_how_many_runs_would_find_the_resolution(tmp_path: Path) -> None:
    left, right = ([recorded(tmp_path, [rate], host=CPU) for rate in (990, 1000, 1010)] for _ in range(2))
    compared = compare_sides(left, right, ComparisonOptions())
    pair = comparison_data(Report("a", "b", compared))["pairs"][0]
    assert pair["power"].endswith(f" %, {pair['runs_needed']} runs a side would find 1 %")
    assert pair["runs_needed"] > 3


def test_percentages_have_no_exponent(tmp_path: Path) -> None:
    """Passes, and then runs, that differ by factors."""
    wild = [recorded(tmp_path, rates, host=CPU) for rates in ([100, 100, 120, 300, 400, 3000], [1, 1, 1], [9000] * 3)]
    texts = [comparison_text(Report("a", "b", compare_sides(s, s, ComparisonOptions()))) for s in (wild[:1], wild)]
    assert " ±469 %" in texts[0]
    assert not re.search(r"\de\+\d", texts[1]), texts[1]


@pytest.fixture
def unjudged(tmp_path: Path) -> Report:
    """Two runs without a verdict that says valid, on hosts that differ. Their passes differ by factors."""
    runs = [
        recorded(
            tmp_path, [100, 100, 120, 300, 400, 3000], host={**CPU, "hostname": host}, tag={"ttt.verdict": "unjudged"}
        )
        for host in ("here", "there")
    ]
    return Report("a", "b", compare_sides(runs[:1], runs[1:], ComparisonOptions()))


def test_what_is_alike_on_both_sides_is_not_under_what_differs(unjudged: Report) -> None:
    differs, limits = "Not the same on both sides", "Limits of both sides"
    expected = f"{differs}:\n  host: here and there\n\n{limits}:\n  verdict: unjudged on both sides\n\n"
    assert expected in comparison_text(unjudged)
    assert expected.replace("  ", "\n- ") in comparison_markdown(unjudged)


@pytest.mark.skipif(not BROWSER, reason="no chromium or Chrome is installed")
def test_the_page_says_the_same(unjudged: Report, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(comparison_html(unjudged))
    shown = rendered(tmp_path / "page.html")
    assert "<h2>Not the same on both sides</h2><ul><li>host: here and there</li></ul>" in shown
    assert "<h2>Limits of both sides</h2><ul><li>verdict: unjudged on both sides</li></ul>" in shown
    assert "±469 %" in shown

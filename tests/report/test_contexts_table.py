"""The tables over context lengths: crossings, steps and what fits, as text, Markdown and CSV."""

import csv
from pathlib import Path

import pytest

from tests.report import contexts as made
from ttt_mlflow.report.contexts_table import contexts_markdown, contexts_text, crossings_csv
from ttt_mlflow.report.results import Results
from ttt_mlflow.report.results_contexts import Fit, fit_text
from ttt_mlflow.report.results_grids import RunSet, results_of


@pytest.fixture
def results(tmp_path: Path) -> Results:
    rows = [*made.rows(tmp_path), made.oom(tmp_path, made.MHA, 32704, 64)]
    return results_of([RunSet("one", rows, (made.predicted(made.GQA, (32704,), 128),))], "a title")


def test_a_table_of_crossings_has_the_constant_states_as_rows(results: Results) -> None:
    lines = contexts_text(results).splitlines()
    at = next(index for index, line in enumerate(lines) if line == "batch 16")
    assert lines[at + 1].split() == ["ttt-350m", "mlp_1_dual", "ttt-760m", "mlp_1_dual"]
    assert lines[at + 3].split() == [
        *["ttt-1b", "mlp_1_dual_triton", "980", "(65", "to", "2,048)", "293", "(65", "to", "2,048)"]
    ]


def test_markdown(results: Results) -> None:
    lines = list(contexts_markdown(results))
    assert "| ttt-350m mlp_1_dual | 1.420 | 1.810 | 2.900 | 7.150 |" in lines
    assert "| ttt-760m mlp_1_dual | 3.000 | 9.300 | 29.00 | 106.0 |" in lines
    assert "| ttt-1b mlp_1_dual_triton | 980 (65 to 2,048) | 293 (65 to 2,048) |" in lines
    (fits,) = [line for line in lines if line.startswith("| ttt-760m") and "not 64" in line]
    assert fits == "| ttt-760m mlp_1_dual | at least 16 | at least 16 | at least 16 | 16, not 64 |"
    assert any("16, not 128 (predicted)" in line for line in lines)
    assert all(len(line.split("|")) == 7 for line in lines if line.startswith("| ttt") and "to 2,048" not in line)


def test_csv(results: Results) -> None:
    lines = list(csv.DictReader(crossings_csv(results).splitlines()))
    assert [(line["batch"], line["growing_state"], line["outcome"]) for line in lines] == [
        ("16", "ttt-350m mlp_1_dual", "crosses"),
        ("16", "ttt-760m mlp_1_dual", "crosses"),
    ]
    assert (lines[0]["between_low"], lines[0]["between_high"]) == ("65.0", "2048.0")
    assert float(lines[0]["decode_step_ms"]) == 1.6


def test_how_a_bound_is_said() -> None:
    assert fit_text(Fit(None)) == ""
    assert fit_text(Fit(None, 8, True)) == "less than 8 (predicted)"
    assert fit_text(Fit(4)) == "at least 4"
    assert fit_text(Fit(4, 8)) == "4, not 8"

"""The files of profile=accuracy."""

import csv

import pytest
import torch

from ttt_mlflow.measurement.accuracy import Accuracy, Deviations, Side
from ttt_mlflow.report.accuracy_report import accuracy_markdown, positions_csv, positions_png


def deviations(differing: int, of: int = 400) -> Deviations:
    """``of`` positions of two sequences; at the first ``differing`` ones the tokens differ."""
    found = Deviations()
    reference = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    for position in range(of):
        found.add(reference.flip(-1) if position < differing else reference + 0.125, reference)
    return found


def accuracy(ours: int, others: int) -> Accuracy:
    return Accuracy(2, 400, Side(deviations(ours), [3, None]), Side(deviations(others), [None, None]), 0.0)


@pytest.mark.parametrize(("ours", "said"), [(100, "within"), (130, "beyond"), (111, "undecided against")])
def test_the_table_answers_the_question(ours: int, said: str) -> None:
    text = accuracy_markdown(accuracy(ours, 100), "plain PyTorch, float32", "plain PyTorch, float16", ["A note <b>."])
    assert f"{said} the goal of 1.1" in text
    assert f"{ours / 100:.4g} times as often" in text
    assert "| greedy tokens that differ, % |" in text
    assert "| free-running sequences that part | 1 of 2 | 0 of 2 |" in text
    assert "| first token that differs | 3 |  |" in text
    assert "800 predictions" in text
    assert "generate the same tokens" in text
    assert "- A note &lt;b>." in text


@pytest.mark.parametrize(("ours", "others"), [(0, 0), (0, 3), (3, 0)])
def test_without_a_ratio_it_says_why(ours: int, others: int) -> None:
    text = accuracy_markdown(accuracy(ours, others), "plain PyTorch, float32", "plain PyTorch, float16", [])
    assert "No ratio: in the run or in plain PyTorch, no greedy token differs from the reference." in text


def test_the_table_of_tokens_alone() -> None:
    blind = Accuracy(2, 5, Side(None, [3, None]), None, 12.5)
    text = accuracy_markdown(blind, "the model's own code, float32", None, [])
    assert "logits' error" not in text
    assert "goal" not in text
    assert "12.5 % of the free-running tokens differ" in text


def test_the_positions() -> None:
    rows = list(csv.DictReader(positions_csv(accuracy(2, 1)).splitlines()))
    assert len(rows) == 400
    assert [row["differing_tokens_pct"] for row in rows[:3]] == ["100.0", "100.0", "0.0"]
    assert [row["yardstick_differing_tokens_pct"] for row in rows[:3]] == ["100.0", "0.0", "0.0"]
    assert float(rows[0]["logits_error"]) == pytest.approx((2 / 5) ** 0.5)
    alone = Accuracy(2, 400, Side(deviations(0), [None, None]))
    assert positions_csv(alone).splitlines()[0] == "position,logits_error,total_variation,differing_tokens_pct"


def test_the_chart_is_drawn_of_any_name() -> None:
    assert positions_png(accuracy(20, 10), "a $b^{ c").startswith(b"\x89PNG")

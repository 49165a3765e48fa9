"""Pairs of runs on one GPU: differences between GPUs cancel, and the confidence interval covers."""

import numpy as np
import pytest

from ttt_mlflow.measurement.comparison import answers
from ttt_mlflow.measurement.paired import compare_pairs


def pairs(differences: list[float], gpus: list[float] | None = None) -> list[tuple[list[float], list[float]]]:
    """One pair for each difference (log scale), of GPUs whose speeds differ by percents."""
    gpus = gpus or [1.0, 0.98, 1.01, 0.95][: len(differences)]
    return [([100 * gpu] * 3, [100 * gpu * float(np.exp(one))] * 3) for gpu, one in zip(gpus, differences, strict=True)]


def test_a_slowdown_of_all_gpus_is_found_although_the_gpus_differ_by_more() -> None:
    found = compare_pairs(pairs([-0.0102, -0.0098, -0.0101, -0.0099]))
    assert found.change_pct == pytest.approx(-0.995, abs=0.001)
    assert found.low_pct is not None
    assert found.high_pct is not None
    # the mean difference, with t(3) = 3.182 standard errors of 0.0183 % / 2
    assert found.low_pct == pytest.approx(100 * np.expm1(-0.01 - 3.1824 * 1.8257e-4 / 2), abs=1e-4)
    assert found.high_pct == pytest.approx(100 * np.expm1(-0.01 + 3.1824 * 1.8257e-4 / 2), abs=1e-4)
    assert answers([found], 1.0) == ["slower"]
    assert (found.baseline_runs, found.candidate_passes) == (4, 12)


def test_equal_sides() -> None:
    same = compare_pairs(pairs([0.0, 0.0, 0.0]))
    assert (same.change_pct, same.low_pct, same.high_pct, same.p_value) == (0, 0, 0, 1)
    assert answers([compare_pairs(pairs([0.001, -0.001, 0.002, -0.002]))], 1.0) == ["no significant difference"]
    assert answers([compare_pairs(pairs([0.03, -0.03, 0.02, -0.02]))], 1.0) == ["cannot tell"]


def test_a_run_counts_with_the_median_of_its_passes() -> None:
    slow = [([100.0, 100.0, 1.0], [99.0, 99.0, 500.0])] * 2 + [([10.0], [9.9])]
    assert compare_pairs(slow).change_pct == pytest.approx(-1)


@pytest.mark.parametrize("count", [1, 2])
def test_few_pairs_give_no_answer(count: int) -> None:
    found = compare_pairs(pairs([-0.01] * count))
    assert (found.low_pct, found.runs_needed) == (None, None)
    assert "3 pairs of runs are needed; there" in str(found.missing)
    assert answers([found], 1.0) == ["cannot tell"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no pairs"),
        ([([], [1.0])], "at least one"),
        ([([[1.0]], [1.0])], "at least one"),
        ([([0.0], [1.0])], "above 0"),
        ([([1.0], [float("inf")])], "above 0"),
    ],
)
def test_what_cannot_be_compared(given: list[tuple[list[float], list[float]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_pairs(given)


def test_it_covers_the_true_change_in_95_of_100_cases() -> None:
    """Simulated: GPUs that differ by 2 %, pairs that differ by 0.3 %, four pairs."""
    rng, covered, false_alarms, count = np.random.default_rng(1), 0, 0, 1500
    for _ in range(count):
        gpus = np.exp(rng.normal(0, 0.02, 4)).tolist()
        found = compare_pairs(pairs(rng.normal(-0.01, 0.003, 4).tolist(), gpus))
        assert found.low_pct is not None
        assert found.high_pct is not None
        covered += found.low_pct <= 100 * np.expm1(-0.01) <= found.high_pct
        null = compare_pairs(pairs(rng.normal(0, 0.003, 4).tolist(), gpus))
        false_alarms += answers([null], 1.0) in (["faster"], ["slower"])
    # standard errors: 0.6 %
    assert 0.93 < covered / count < 0.97
    assert 0.03 < false_alarms / count < 0.07

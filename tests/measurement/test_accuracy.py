"""Accuracy: the formulas against another computation of each, and what becomes of differences that are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow import names
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.measurement.accuracy import (
    Accuracy,
    Deviations,
    Side,
    differing_pct,
    first_differences,
    ratio_of_shares,
)

SEQUENCES, VOCABULARY, POSITIONS = 3, 50, 20


def some_logits(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The logits of a model and of a reference [T, B, V] in float64."""
    random = np.random.default_rng(seed)
    reference = random.normal(size=(POSITIONS, SEQUENCES, VOCABULARY))
    return reference + noise * random.normal(size=reference.shape), reference


def deviations_of(logits: np.ndarray, reference: np.ndarray) -> Deviations:
    found = Deviations()
    for one, other in zip(logits, reference, strict=True):
        found.add(torch.from_numpy(one), torch.from_numpy(other))
    return found


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.5])
def test_the_values_are_those_of_all_positions_at_once(noise: float) -> None:
    logits, reference = some_logits(1, noise)
    found = deviations_of(logits, reference)
    assert found.logits_error == pytest.approx(np.linalg.norm(logits - reference) / np.linalg.norm(reference))

    def predicted(values: np.ndarray) -> np.ndarray:
        shares = np.exp(values)
        return shares / shares.sum(-1, keepdims=True)

    variation = 0.5 * np.abs(predicted(logits) - predicted(reference)).sum(-1)
    assert found.mean_total_variation == pytest.approx(variation.mean(), abs=1e-12)
    differs = logits.argmax(-1) != reference.argmax(-1)
    assert found.differing_tokens_pct == pytest.approx(100 * differs.mean())
    assert found.differs == differs.tolist()
    error, at_one, share = found.rows()[7]
    assert error == pytest.approx(np.linalg.norm(logits[7] - reference[7]) / np.linalg.norm(reference[7]))
    assert (at_one, share) == (pytest.approx(variation[7].mean()), pytest.approx(100 * differs[7].mean()))
    if noise == 0:
        assert (found.logits_error, found.mean_total_variation, found.differing_tokens_pct) == (0, 0, 0)
    else:
        assert min(found.logits_error, found.mean_total_variation) > 0


def test_disjoint_predictions_vary_totally() -> None:
    found = Deviations()
    found.add(torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]]))
    assert (found.mean_total_variation, found.differing_tokens_pct) == (pytest.approx(1), 100)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_logits_that_are_not_finite_are_no_small_difference(value: float) -> None:
    found, fine = Deviations(), torch.zeros(2, 4)
    found.add(fine, fine)
    bad = fine.clone()
    bad[1, 2] = value
    with pytest.raises(RunFailed, match=r"^the logits are not finite at prediction 2"):
        found.add(bad, fine)
    with pytest.raises(RunFailed, match=r"^the reference's logits are not finite"):
        found.add(fine, bad)


def test_first_differences() -> None:
    reference = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    tokens = torch.tensor([[1, 2, 3], [4, 0, 0], [0, 8, 9]])
    assert first_differences(tokens, reference) == [None, 2, 1]
    assert differing_pct(tokens, reference) == pytest.approx(100 * 3 / 9)


def test_a_ratio_and_its_interval() -> None:
    """2 of 10 in both, 2 only in ours, 1 only in the others: 4/3, and the variance of its logarithm is 3/12."""
    ours = [[True, True, True, True, False], [False] * 5]
    others = [[True, True, False, False, True], [False] * 5]
    found = ratio_of_shares(ours, others)
    assert found is not None
    assert found.value == pytest.approx(4 / 3)
    assert math.log(found.high / found.value) == pytest.approx(1.96 * 0.5, rel=1e-3)
    assert math.log(found.value / found.low) == pytest.approx(1.96 * 0.5, rel=1e-3)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_ratio_is_that_of_the_counts(pairs: list[tuple[bool, bool]]) -> None:
    ours, others = [[one for one, _ in pairs]], [[other for _, other in pairs]]
    found = ratio_of_shares(ours, others)
    if not sum(ours[0]) or not sum(others[0]):
        assert found is None
        return
    assert found is not None
    assert found.value == sum(ours[0]) / sum(others[0])
    assert found.low <= found.value <= found.high
    if ours == others:
        assert found.low == found.value == found.high == 1


def test_the_interval_covers_the_ratio_as_often_as_it_says() -> None:
    """4000 simulated comparisons with 8,192 predictions, 2 % and 2.2 % of which differ, half of them in both."""
    random = np.random.default_rng(0)
    covered, shares = 0, [0.01, 0.012, 0.01]  # both, only ours, only the others
    for _ in range(4000):
        both, mine, theirs, _ = random.multinomial(8192, [*shares, 1 - sum(shares)])
        ours = [True] * (both + mine) + [False] * theirs
        others = [True] * both + [False] * mine + [True] * theirs
        found = ratio_of_shares([ours], [others])
        assert found
        covered += found.low <= 2.2 / 2.0 <= found.high
    assert 0.93 < covered / 4000 < 0.97


def test_what_was_not_found_is_absent() -> None:
    same, different = deviations_of(*some_logits(2, 0.0)), deviations_of(*some_logits(2, 2.0))
    alike = Accuracy(SEQUENCES, POSITIONS, Side(same, [None] * 3))
    assert names.ACCURACY_FIRST_DIFFERENCE not in alike.metrics()
    assert not any("yardstick" in metric.name or "ratio" in metric.name for metric in alike.metrics())
    blind = Accuracy(SEQUENCES, POSITIONS, Side(None, [None, 4, 9]), Side(None, [None, 2, None]), 1.5)
    assert {metric.name: value for metric, value in blind.metrics().items()} == {
        "accuracy_sequences": 3,
        "accuracy_positions": 20,
        "accuracy_first_difference": 4,
        "accuracy_parted_sequences_pct": pytest.approx(200 / 3),
        "accuracy_yardstick_first_difference": 2,
        "accuracy_yardstick_parted_sequences_pct": pytest.approx(100 / 3),
        "accuracy_eager_differing_tokens_pct": 1.5,
    }
    both = Accuracy(SEQUENCES, POSITIONS, Side(different, [1, 1, 1]), Side(different, [1, 1, 1]))
    assert both.metrics()[names.ACCURACY_RATIO] == 1
    assert names.ACCURACY_RATIO not in Accuracy(3, 20, Side(different, [1] * 3), Side(same, [None] * 3)).metrics()

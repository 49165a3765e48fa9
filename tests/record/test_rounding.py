"""What a record's numbers keep: two digits beyond the interval's half-width, else six; counts and bytes all."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalog import by_name
from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.names import Metric, Metrics
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.rounding import rounded

RATE = names.DECODE_TOKENS_PER_S
POSITIVE = st.floats(min_value=1e-6, max_value=1e12)
EXACT = [metric for metric in names.METRICS if metric.unit in ("count", "bytes", "FLOP")]


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (131748.02058837237, 131428.0, 132068.2, (131748.0, 131428.0, 132068.0)),
        (1234.56789, 1234.5, 1234.6, (1234.5679, 1234.5, 1234.6)),
        (1.23456789, 0.3, 2.2, (1.235, 0.3, 2.2)),
        (98765432.1, 9e7, 1.1e8, (98800000.0, 90000000.0, 110000000.0)),
        (512.345, 3.14159e-9, 7.6543e13, (512.0, 3.14e-9, 7.65e13)),  # two passes, one of them disturbed
    ],
)
def test_an_interval_says_how_many_digits_are_worth_keeping(
    value: float, low: float, high: float, expected: tuple[float, float, float]
) -> None:
    found = rounded({RATE: value, RATE.ci_low: low, RATE.ci_high: high})
    assert tuple(found.values()) == expected


@given(POSITIVE, st.floats(1e-300, 1), st.floats(1, 1e290))
def test_an_interval_of_any_width_leaves_three_digits(value: float, below: float, above: float) -> None:
    metrics = {RATE: value, RATE.ci_low: value * below, RATE.ci_high: value * above}
    found = rounded(metrics)
    assert found[RATE.ci_low] <= found[RATE] <= found[RATE.ci_high]
    for metric, old in metrics.items():
        assert found[metric] == pytest.approx(old, rel=5.1e-3)


@given(POSITIVE, st.floats(1e-7, 0.99), st.floats(1e-7, 10))
def test_rounding_moves_a_value_by_less_than_its_interval_can_tell(value: float, below: float, above: float) -> None:
    metrics = {RATE: value, RATE.ci_low: value * (1 - below), RATE.ci_high: value * (1 + above)}
    half_width = (metrics[RATE.ci_high] - metrics[RATE.ci_low]) / 2
    found = rounded(metrics)
    assert found[RATE.ci_low] <= found[RATE] <= found[RATE.ci_high]
    for metric, old in metrics.items():
        assert abs(found[metric] - old) <= half_width / 199 + math.ulp(old)
    assert rounded({names.POWER_W_MEAN: value, **metrics}) == {**found, **rounded({names.POWER_W_MEAN: value})}


@given(POSITIVE)
def test_six_digits_without_an_interval(value: float) -> None:
    every: list[Metrics] = [
        {names.POWER_W_MEAN: value},
        {RATE: value},
        {RATE: value, RATE.ci_low: value, RATE.ci_high: value},
    ]
    for metrics in every:
        found = rounded(metrics)
        assert rounded(found) == found
        for once in found.values():
            assert once == pytest.approx(value, rel=5.1e-6)
            assert len(f"{once:.15g}".partition("e")[0].replace(".", "").strip("0")) <= 6


@given(st.sampled_from(EXACT), st.floats(0, 1e18))
def test_counts_and_bytes_are_exact(metric: Metric, value: float) -> None:
    assert rounded({metric: value}) == {metric: value}


def test_the_record_has_the_rounded_numbers_and_the_raw_series(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, RunConfig.parse({}).model_dump(mode="json"))
    journal.update_metrics({names.POWER_W_MEAN: 630.123456, names.MODEL_PARAMETERS: 1_323_070_592})
    assert journal.metrics == by_name({names.POWER_W_MEAN: 630.123, names.MODEL_PARAMETERS: 1_323_070_592})
    raw = 100 / 3
    kernel = names.KERNEL_US.of("a")
    journal.set_series(
        {names.PASS_TOKENS_PER_S: [(1, 1, raw)], names.SYSTEM_POWER.of(0): [(1, 1, raw)], kernel: [(1, 8, raw)]}
    )
    assert [rows[0][2] for rows in journal.series.values()] == [raw, raw, 33.3333]

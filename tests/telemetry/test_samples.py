import io
from collections.abc import Sequence

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalog import METRIC_NAMES, by_name
from ttt_mlflow import names
from ttt_mlflow.telemetry.samples import GPM_LATE_MS, Section, inside, samples_csv, series, summarize

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def summarized(samples: pd.DataFrame, sections: Sequence[Section]) -> dict[str, float]:
    return by_name(summarize(samples, sections))


def at(seconds: float) -> int:
    return START + int(seconds * SECOND)


def section(begin: float, end: float, energy_j: float | None = None) -> Section:
    return Section(at(begin), at(end), energy_j)


def frame(rows: int = 40, hz: float = 10.0) -> pd.DataFrame:
    """Four seconds: idle for one, then at work."""
    seconds = [index / hz for index in range(rows)]
    busy = [second >= 1 for second in seconds]
    return pd.DataFrame(
        {
            "time_ns": [at(second) for second in seconds],
            "read_ms": 0.02,
            "sm_clock_mhz": [1980 if work else 345 for work in busy],
            "memory_clock_mhz": 3201,
            "power_w": [300.0 if work else 80.0 for work in busy],
            "power_instant_w": [600.0 if work else 75.0 for work in busy],
            "temperature_c": [40 + int(second * 5) for second in seconds],
            "gpu_utilization_pct": [100 if work else 0 for work in busy],
            "memory_utilization_pct": [60 if work else 0 for work in busy],
            "memory_used_bytes": [2_500_000_000 if work else 500_000_000 for work in busy],
            "clock_event_reasons": [0x4 if work else 0x1 for work in busy],
            # every third row, of the 300 ms since the one before
            "gpm_span_ms": [300.0 if index % 3 == 0 else None for index in range(rows)],
            "dram_bandwidth_pct": [
                (80.0 if work else 0.0) if index % 3 == 0 else None for index, work in enumerate(busy)
            ],
            "tensor_active_pct": [20.0 if index % 3 == 0 else None for index in range(rows)],
        }
    )


def test_summary_is_of_the_sections_alone() -> None:
    metrics = summarized(frame(), [section(1.0, 1.95, 570.0), section(2.0, 2.95, 560.0)])
    assert metrics == {
        "sm_clock_mhz_mean": 1980,
        "sm_clock_mhz_min": 1980,
        "sm_clock_mhz_max": 1980,
        "memory_clock_mhz_mean": 3201,
        "power_w_mean": 600,
        "temperature_c_max": 54,
        "gpu_utilization_pct_mean": 100,
        "device_memory_used_gb": 2.5,
        **{names.CLOCK_EVENT_PCT[reason].name: 0 for reason in names.CLOCK_EVENT_REASONS},
        "clock_event_sw_power_cap_pct": 100,
        "dram_bandwidth_pct_mean": 80,
        "tensor_active_pct_mean": 20,
        "energy_j": 1130,
    }
    assert set(metrics) <= METRIC_NAMES


def test_no_sample_inside_gives_no_metric() -> None:
    assert summarized(frame(), [section(1.01, 1.09)]) == {}
    assert summarized(frame(), []) == {}
    assert summarized(pd.DataFrame(), [section(0, 1)]) == {}


def test_a_column_that_is_missing_gives_no_metric() -> None:
    samples = frame().drop(columns=["sm_clock_mhz", "clock_event_reasons", "temperature_c"])
    assert set(summarized(samples, [section(1, 2)])) == {
        "memory_clock_mhz_mean",
        "power_w_mean",
        "gpu_utilization_pct_mean",
        "device_memory_used_gb",
        "dram_bandwidth_pct_mean",
        "tensor_active_pct_mean",
    }


def test_a_reading_that_stopped_is_left_out() -> None:
    samples = frame().astype({"sm_clock_mhz": "float64", "temperature_c": "float64"})
    samples.loc[samples["time_ns"] > at(1.55), "sm_clock_mhz"] = float("nan")
    samples["temperature_c"] = float("nan")
    metrics = summarized(samples, [section(1, 2)])
    assert metrics["sm_clock_mhz_mean"] == 1980
    assert "temperature_c_max" not in metrics


def test_average_power_stands_in_where_there_is_no_instantaneous_one() -> None:
    samples = frame().drop(columns="power_instant_w")
    assert summarized(samples, [section(1, 2)])["power_w_mean"] == 300


@given(st.lists(st.integers(0, 0x7FF), min_size=1, max_size=40))
def test_clock_events_are_shares_of_the_samples(masks: list[int]) -> None:
    samples = pd.DataFrame({"time_ns": [at(i / 100) for i in range(len(masks))], "clock_event_reasons": masks})
    metrics = summarized(samples, [section(0, 1)])
    for bit, reason in enumerate(names.CLOCK_EVENT_REASONS):
        share = sum(bool(mask & 1 << bit) for mask in masks) / len(masks)
        assert metrics[names.CLOCK_EVENT_PCT[reason].name] == pytest.approx(100 * share)
    assert set(metrics) <= METRIC_NAMES


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ([section(0, 2, 900.0)], 900.0),
        ([section(0, 0.5, 200.0)], None),  # the counter moves every 100 ms: up to a fifth of it
        ([section(i, i + 0.9, 500.0) for i in range(4)], 2000.0),
        ([section(i, i + 0.1, 50.0) for i in range(20)], None),
        ([section(0, 2, 900.0), section(2, 4, None)], None),
        ([], None),
    ],
)
def test_energy_is_given_where_the_counter_can_tell(sections: list[Section], expected: float | None) -> None:
    assert summarized(frame(), sections).get("energy_j") == expected


def test_ends_belong_to_the_section() -> None:
    samples = frame(rows=4, hz=1.0)
    assert inside(samples, [section(1, 2)]).tolist() == [False, True, True, False]
    assert inside(samples, [section(0, 0), section(3, 5)]).tolist() == [True, False, False, True]


# GPM's readings cover what was before them


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (1.0, 3.0, {1.5, 1.8, 2.1, 2.4, 2.7, 3.0}),  # 1.2 would reach back to 0.8
        (1.05, 1.95, {1.5, 1.8}),
        (1.15, 1.5, set()),  # 1.5 reaches back to 1.1
        (1.0, 1.3, set()),
    ],
)
def test_a_gpm_reading_counts_where_all_that_it_covers_was_measured(
    begin: float, end: float, expected: set[float]
) -> None:
    samples = frame()
    samples["dram_bandwidth_pct"] = [
        float(round(10 * second)) if index % 3 == 0 else None
        for index, second in enumerate((samples["time_ns"] - START) / SECOND)
    ]
    found = summarized(samples, [section(begin, end)]).get("dram_bandwidth_pct_mean")
    tenths = [10 * second for second in expected]
    assert found == (pytest.approx(sum(tenths) / len(tenths)) if tenths else None)


def test_a_gpm_reading_across_two_sections_is_of_neither() -> None:
    metrics = summarized(frame(), [section(0.8, 1.05), section(1.06, 1.3)])
    assert "dram_bandwidth_pct_mean" not in metrics
    assert metrics["sm_clock_mhz_max"] == 1980


def test_gpm_readings_weigh_by_their_span() -> None:
    samples = pd.DataFrame({"time_ns": [at(5), at(6)], "gpm_span_ms": [100.0, 300.0], "sm_active_pct": [100.0, 20.0]})
    assert summarized(samples, [section(0, 10)])["sm_active_pct_mean"] == pytest.approx(40)


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(100, 900)), max_size=20), st.integers(0, 3000))
def test_gpm_of_other_times_never_enters(readings: list[tuple[int, int]], begin_ms: int) -> None:
    """Whatever reading reaches out of the section shows 100 %, all others 1 %."""
    end_ms = begin_ms + 1000
    inner = [begin_ms <= time_ms - span_ms - GPM_LATE_MS and time_ms <= end_ms for time_ms, span_ms in readings]
    samples = pd.DataFrame(
        {
            "time_ns": [at(time_ms / 1000) for time_ms, _ in readings],
            "gpm_span_ms": [float(span_ms) for _, span_ms in readings],
            "sm_active_pct": [1.0 if one else 100.0 for one in inner],
        }
    )
    # the ends are rounded to ns; a reading that ends or begins within 1 µs of them may fall on either side
    found = summarized(samples, [Section(at(begin_ms / 1000) - 500, at(end_ms / 1000) + 500)]).get("sm_active_pct_mean")
    assert found == (pytest.approx(1.0) if any(inner) else None)


# What the card counted


def counted(power_s: float | None, errors: int | None) -> Section:
    return Section(
        at(0), at(1), violation_s={} if power_s is None else {"power": power_s}, ecc_uncorrected_errors=errors
    )


def test_counters_add_up_over_the_sections() -> None:
    metrics = summarized(pd.DataFrame(), [counted(0.25, 0), counted(0.5, 2)])
    assert metrics == {"violation_power_s": 0.75, "ecc_uncorrected_errors": 2}
    assert set(metrics) <= METRIC_NAMES


def test_none_counted_is_zero_and_not_asked_is_absent() -> None:
    assert summarized(pd.DataFrame(), [counted(0.0, 0)]) == {"violation_power_s": 0, "ecc_uncorrected_errors": 0}
    assert summarized(pd.DataFrame(), [counted(0.5, 1), counted(None, None)]) == {}
    assert summarized(pd.DataFrame(), []) == {}


def test_series_have_the_public_names_and_two_points_a_second() -> None:
    points = {metric.name: rows for metric, rows in series(frame(), 1).items()}
    assert set(points) == {metric.of(1).name for metric in names.SYSTEM_METRICS}
    clock = points["system/gpu_1_sm_clock_megahertz"]
    assert [step for _, step, _ in clock] == list(range(8))
    assert [timestamp for timestamp, _, _ in clock] == [at(i / 2) // 1_000_000 for i in range(8)]
    assert [value for _, _, value in clock] == [345.0] * 2 + [1980.0] * 6
    assert points["system/gpu_1_memory_usage_megabytes"][-1][2] == 2500
    assert points["system/gpu_1_power_usage_watts"][-1][2] == 600
    assert all(type(item) in (int, float) for point in clock for item in point)


def test_series_skip_what_was_not_sampled() -> None:
    assert series(pd.DataFrame(), 0) == {}
    samples = frame()[["time_ns", "sm_clock_mhz"]]
    gap = samples[(samples["time_ns"] < at(1)) | (samples["time_ns"] >= at(3))]
    points = {metric.name: rows for metric, rows in series(gap, 0).items()}
    assert set(points) == {"system/gpu_0_sm_clock_megahertz"}
    timestamps = [timestamp for timestamp, _, _ in points["system/gpu_0_sm_clock_megahertz"]]
    assert timestamps == [at(second) // 1_000_000 for second in (0, 0.5, 3, 3.5)]


def test_csv_holds_every_row() -> None:
    samples = frame()
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(samples_csv(samples))), samples)

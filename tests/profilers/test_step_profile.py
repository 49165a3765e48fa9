"""A step's time by kernel and by part."""

import io

import pandas as pd
import pytest

from tests.profilers.traces import ComposedTrace, two_eager_steps
from ttt_mlflow.profilers.step_profile import PartRoofline, kernel_table, part_table, profile_of, table_csv
from ttt_mlflow.profilers.trace import read_steps

ROOFLINES = {
    "projections": PartRoofline(1000, 0.01),
    "inner net state": PartRoofline(5000),
    "sampling": PartRoofline(1, 1),
}


def test_a_gpus_step() -> None:
    profile = profile_of(read_steps(two_eager_steps().content, on_gpu=True))
    assert (profile.device, profile.steps) == ("cuda", 2)
    assert (profile.step_ms, profile.busy_ms, profile.idle_ms) == pytest.approx((0.08, 0.05, 0.03))
    assert (profile.launch_gap_us, profile.host_ms) == pytest.approx((12, 0.05))


def test_a_cpus_step_has_no_gaps_between_kernels() -> None:
    trace = ComposedTrace()
    trace.range("step 0", 0, 100)
    trace.operator("aten::mm", 10, 90)
    profile = profile_of(read_steps(trace.content, on_gpu=False))
    assert (profile.step_ms, profile.busy_ms, profile.idle_ms) == pytest.approx((0.1, 0.08, 0.02))
    assert (profile.launch_gap_us, profile.host_ms) == (None, None)


def test_parts_beside_the_roofline() -> None:
    rows = part_table(read_steps(two_eager_steps().content, on_gpu=True), ROOFLINES)
    assert [(row.part, row.calls) for row in rows] == [("projections", 2), ("inner net state", 2), ("unknown", 2)]
    product, inner, unknown = rows
    assert (product.ms_per_step, product.share_pct, product.roofline_pct) == pytest.approx((0.02, 40, 50))
    assert (inner.min_bytes, inner.floor_ms, inner.roofline_pct) == (5000, None, None)
    assert (unknown.min_bytes, unknown.roofline_pct) == (None, None)


def test_kernels_add_up_to_the_busy_time() -> None:
    steps = read_steps(two_eager_steps().content, on_gpu=True)
    rows = kernel_table(steps, part_table(steps, ROOFLINES))
    assert {(row.name, row.part) for row in rows} == {
        ("gemm", "projections"), ("decode", "inner net state"), ("Memset", "unknown"),
    }  # fmt: skip
    assert rows[-1].name == "Memset", "the most expensive first"
    assert sum(row.ms_per_step for row in rows) == pytest.approx(profile_of(steps).busy_ms)
    assert sum(row.share_pct for row in rows) == pytest.approx(100)
    (product,) = (row for row in rows if row.name == "gemm")
    assert (product.calls, product.mean_us, product.total_ms) == pytest.approx((2, 20, 0.04))
    assert (product.part_min_bytes, product.part_roofline_pct) == pytest.approx((1000, 50))


def test_a_kernel_of_two_parts_has_two_rows_and_what_is_not_known_is_empty() -> None:
    trace = ComposedTrace()
    trace.range("step 0", 0, 100)
    trace.range("sampling", 0, 10)
    trace.launch(1, ("same", 200, 210))
    trace.launch(20, ("same", 220, 225))
    steps = read_steps(trace.content, on_gpu=True)
    table = pd.read_csv(io.StringIO(table_csv(kernel_table(steps, part_table(steps, {})))))
    assert table["part"].tolist() == ["sampling", "unknown"]
    assert table["mean_us"].tolist() == [10, 5]
    assert table["part_min_bytes"].isna().all()
    assert table["part_roofline_pct"].isna().all()

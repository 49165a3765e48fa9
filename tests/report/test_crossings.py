"""Where the line of a model with a constant state crosses one that grows."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ttt_mlflow.report.crossings import CURVE, Crossing, at, crossing_of, crossing_text, curve_of, level

FLAT = [(64.0, 1.6), (4096.0, 1.6)]
TIMES = st.floats(0.01, 1000)
LINES = st.dictionaries(st.integers(1, 40000).map(float), TIMES, min_size=1, max_size=6).map(lambda one: [*one.items()])


def test_a_cache_that_is_read_at_a_constant_rate_crosses_where_it_should() -> None:
    """1.4 ms and 0.2 µs a token: 1.6 ms at 1000 tokens, wherever it was measured."""
    growing = [(context, 1.4 + 0.0002 * context) for context in (32.0, 512.0, 2048.0, 8192.0)]
    found = crossing_of(FLAT, growing)
    assert found is not None
    assert (found.outcome, found.span) == ("crosses", (64, 4096))
    assert found.context == pytest.approx(1000)
    assert found.step == pytest.approx(1.6)
    assert found.between == (512, 2048)
    coarse = crossing_of(FLAT, [(64.0, 1.4 + 0.0002 * 64), (32768.0, 1.4 + 0.0002 * 32768)])
    assert coarse is not None
    assert coarse.context == pytest.approx(1000)


@pytest.mark.parametrize(
    ("growing", "outcome", "text"),
    [
        ([(64.0, 2.0), (4096.0, 9.0)], "always", "faster from 64 to 4,096"),
        ([(64.0, 1.0), (4096.0, 1.5)], "never", "slower from 64 to 4,096"),
        ([(2048.0, 1.0), (9000.0, 1.5)], "never", "slower from 2,048 to 4,096"),
        ([(64.0, 1.0)], "never", "slower at 64"),
        ([(64.0, 2.0), (4096.0, 1.2)], "falls_behind", "slower from 2,080 (64 to 4,096)"),
        ([(64.0, 1.2), (4096.0, 2.0)], "crosses", "2,080 (64 to 4,096)"),
        ([(64.0, 1.0), (512.0, 2.0), (4096.0, 1.0)], "several", "crosses several times from 64 to 4,096"),
    ],
)
def test_what_is_said(growing: list[tuple[float, float]], outcome: str, text: str) -> None:
    found = crossing_of(FLAT, growing)
    assert found is not None
    assert found.outcome == outcome
    assert crossing_text(found) == text


@pytest.mark.parametrize("growing", [[], [(8192.0, 3.0), (16384.0, 5.0)], [(1.0, 1.0), (63.0, 2.0)]])
def test_nothing_is_said_beyond_what_was_measured_of_both(growing: list[tuple[float, float]]) -> None:
    assert crossing_of(FLAT, growing) is None
    assert crossing_of(growing, FLAT) is None


@pytest.mark.parametrize(
    ("constant", "growing", "text"),
    [
        ([(64.0, 1.6)], [(64.0, 1.2), (4096.0, 2.0)], "2,080 (64 to 4,096)*"),
        ([(2048.0, 1.6)], [(64.0, 2.0), (4096.0, 9.0)], "faster from 64 to 4,096*"),
        ([(9000.0, 1.6)], [(64.0, 1.0)], "slower at 64*"),
        ([(64.0, 1.6), (3000.0, 1.6)], [(64.0, 1.2), (4096.0, 2.0)], "2,080 (64 to 3,000)"),
        ([(1.0, 1.6), (9000.0, 1.6)], [(64.0, 1.0), (4096.0, 1.5)], "slower from 64 to 4,096"),
        ([(16.5, 1.6)], [(16.5, 1.0)], "slower at 17"),
    ],
)
def test_a_step_that_costs_the_same_at_any_context_is_taken_from_where_it_was_measured(
    constant: list[tuple[float, float]], growing: list[tuple[float, float]], text: str
) -> None:
    """And a sign says so, where what is said rests on that."""
    found = crossing_of(constant, growing, is_level=True)
    assert found is not None
    assert crossing_text(found) == text


def test_it_must_have_been_measured_somewhere() -> None:
    assert crossing_of([], FLAT, is_level=True) is None
    assert crossing_of(FLAT, [], is_level=True) is None


@given(LINES, st.lists(st.floats(1, 50000), max_size=4))
def test_a_level_line_goes_on_with_its_ends(constant: list[tuple[float, float]], contexts: list[float]) -> None:
    found, measured = level(constant, contexts), sorted(constant)
    assert [one for one in found if one in measured] == measured
    assert [one for one, _ in found] == sorted({one for one, _ in found})
    assert {time for _, time in found} == {time for _, time in measured}
    for context in contexts:
        assert found[0][0] <= context <= found[-1][0]


@given(LINES, LINES)
def test_a_crossing_lies_where_both_were_measured_and_are_equal(
    constant: list[tuple[float, float]], growing: list[tuple[float, float]]
) -> None:
    found = crossing_of(constant, growing)
    low = max(min(context for context, _ in one) for one in (constant, growing))
    high = min(max(context for context, _ in one) for one in (constant, growing))
    if found is None:
        assert low > high
        return
    assert found.span == (low, high)
    ours, others = sorted(constant), sorted(growing)
    if found.outcome in ("always", "never"):
        for context, _ in (*ours, *others):
            if low <= context <= high:
                assert (at(others, context) >= at(ours, context)) == (found.outcome == "always")
    if found.context is None:
        assert found.outcome in ("always", "never", "several")
        return
    assert found.between is not None
    left, right = found.between
    assert low <= left <= found.context <= right <= high
    assert {left, right} <= {context for context, _ in (*ours, *others)}
    assert at(ours, found.context) == pytest.approx(at(others, found.context), rel=1e-6)
    assert found.step == pytest.approx(at(ours, found.context))
    ahead_after = at(others, right) >= at(ours, right)
    assert ahead_after == (found.outcome == "crosses")


@given(LINES, LINES)
def test_the_order_of_the_points_does_not_matter(
    constant: list[tuple[float, float]], growing: list[tuple[float, float]]
) -> None:
    assert crossing_of(constant[::-1], growing) == crossing_of(constant, growing[::-1])


@given(TIMES, TIMES, st.floats(1e-6, 1), st.sets(st.integers(1, 40000), min_size=2, max_size=8))
def test_a_flat_line_and_a_rising_one_cross_at_most_once(
    flat: float, start: float, slope: float, contexts: set[int]
) -> None:
    constant = [(float(context), flat) for context in contexts]
    growing = [(float(context), start + slope * context) for context in contexts]
    found = crossing_of(constant, growing)
    assert found is not None
    assert found.outcome in ("always", "never", "crosses")
    if found.context is not None:
        exact = (flat - start) / slope
        assume(abs(flat - start) > 1e-6 * flat)
        assert found.context == pytest.approx(exact, rel=1e-3)


def test_a_curve_passes_through_the_points_and_is_linear_between_them() -> None:
    points = [(100.0, 1.0), (10000.0, 3.0), (20000.0, 2.0)]
    curve = curve_of(points[::-1])
    assert len(curve) == 2 * CURVE + 1
    assert set(points) <= {(round(x, 6), round(y, 6)) for x, y in curve}
    assert all(y == pytest.approx(at(points, x)) for x, y in curve)
    assert curve_of(points[:1]) == points[:1]


def test_equal_times_count_as_faster() -> None:
    assert crossing_of(FLAT, FLAT) == Crossing("always", (64, 4096))

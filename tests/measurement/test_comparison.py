import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.measurement.comparison import RANKS_LEAST, RUN_TO_RUN_PCT, Comparison, _difference, _rank, compare

positive = st.floats(min_value=0.1, max_value=10)
side = st.lists(positive, min_size=2, max_size=30)
SPREAD = BETWEEN = 0.001  # of an H200's passes and, at most, of its runs' medians


def run_of(rng: np.random.Generator, passes: int, slower: float = 0.0) -> np.ndarray:
    """The rates of one run: its own luck, and the scatter of its passes."""
    return (1 - slower) * np.exp(BETWEEN * rng.standard_normal() + SPREAD * rng.standard_normal(passes))


def interval(comparison: Comparison) -> tuple[float, float]:
    assert comparison.low_pct is not None
    assert comparison.high_pct is not None
    return comparison.low_pct, comparison.high_pct


# Properties


@given(side, side)
def test_the_interval_holds_the_change_of_the_medians(baseline: list[float], candidate: list[float]) -> None:
    comparison = compare(baseline, candidate)
    low, high = interval(comparison)
    assert comparison.change_pct == pytest.approx(100 * (np.median(candidate) / np.median(baseline) - 1), abs=1e-6)
    assert low <= comparison.change_pct <= high


@given(side, side)
def test_the_other_way_round_it_is_the_inverse(baseline: list[float], candidate: list[float]) -> None:
    forth, back = compare(baseline, candidate), compare(candidate, baseline)
    assert (1 + forth.change_pct / 100) * (1 + back.change_pct / 100) == pytest.approx(1)
    (low, high), (inverse_high, inverse_low) = interval(forth), interval(back)
    if high < 1e6:  # beyond, a percentage near −100 has not the digits for its inverse
        assert (1 + low / 100) * (1 + inverse_low / 100) == pytest.approx(1, rel=1e-6)
        assert (1 + high / 100) * (1 + inverse_high / 100) == pytest.approx(1, rel=1e-6)
    opposite = {"faster": "slower", "slower": "faster", "not significant": "not significant"}
    assert back.word == opposite[forth.word]


@given(side, side, st.integers(-8, 8).map(lambda power: 2.0**power))
def test_the_unit_does_not_matter(baseline: list[float], candidate: list[float], factor: float) -> None:
    plain = compare(baseline, candidate)
    scaled = compare([factor * x for x in baseline], [factor * x for x in candidate])
    assert scaled.change_pct == pytest.approx(plain.change_pct, abs=1e-9)
    assert interval(scaled) == pytest.approx(interval(plain), rel=1e-6, abs=1e-6)


@given(side, side, st.randoms(use_true_random=False))
def test_the_order_of_the_passes_does_not_matter(baseline: list[float], candidate: list[float], random: object) -> None:
    shuffled = list(baseline)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert compare(shuffled, candidate) == compare(baseline, candidate)


@given(side)
def test_a_run_is_not_different_from_itself(values: list[float]) -> None:
    comparison = compare(values, values, run_to_run_pct=0)
    assert comparison.change_pct == 0
    assert comparison.word == "not significant"


@given(side, side, st.floats(0, 5), st.floats(0, 5))
def test_runs_that_differ_more_widen_the_interval(
    baseline: list[float], candidate: list[float], one: float, other: float
) -> None:
    narrow, wide = (interval(compare(baseline, candidate, run_to_run_pct=pct)) for pct in sorted((one, other)))
    assert wide[0] <= narrow[0]
    assert narrow[1] <= wide[1]


@given(side, side)
def test_a_significant_change_is_more_than_runs_differ_by(baseline: list[float], candidate: list[float]) -> None:
    comparison = compare(baseline, candidate)
    if comparison.significant:
        assert abs(np.log1p(comparison.change_pct / 100)) >= np.log1p(RUN_TO_RUN_PCT / 100)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12), st.lists(st.integers(-50, 50), min_size=1, max_size=12))
def test_a_difference_by_its_rank(base: list[int], other: list[int]) -> None:
    """Found by halving an interval; the same as sorting all of them, up to rounding."""
    every = sorted(x - y for x in other for y in base)
    for rank in (1, len(every) // 2 + 1, len(every)):
        found = _difference(np.sort(np.array(base, float)), np.sort(np.array(other, float)), rank)
        assert found == pytest.approx(every[rank - 1], abs=1e-9)


# By hand


@pytest.mark.parametrize(
    ("quantity", "factor", "word"),
    [("rate", 1.02, "faster"), ("rate", 0.98, "slower"), ("time", 1.02, "slower"), ("time", 0.98, "faster")],
)
def test_more_is_faster_for_a_rate_and_slower_for_a_time(quantity: str, factor: float, word: str) -> None:
    comparison = compare([100.0] * 6, [100.0 * factor] * 6, quantity=quantity)  # type: ignore[arg-type]
    assert comparison.word == word
    assert comparison.change_pct == pytest.approx(100 * (factor - 1))
    assert comparison.reason.startswith("the change exceeds the scatter of the passes plus the 0.5 %")


def test_without_scatter_the_interval_is_what_runs_differ_by() -> None:
    """A factor of 1.01, widened by a factor of 1.005 to either side."""
    low, high = interval(compare([100.0] * 6, [101.0] * 6))
    assert low == pytest.approx(100 * (1.01 / 1.005 - 1))
    assert high == pytest.approx(100 * (1.01 * 1.005 - 1))


def test_welch_by_hand() -> None:
    """Logarithms 0, 1, 2 and 4, 6, 8: 5 apart, errors 1/3 and 4/3, so 2.94 degrees of freedom and t = 3.22."""
    comparison = compare(np.exp([0, 1, 2]), np.exp([4, 6, 8]), run_to_run_pct=0)
    low, high = (np.log1p(end / 100) for end in interval(comparison))
    assert low == pytest.approx(5 - 3.2203 * (5 / 3) ** 0.5, abs=1e-2)
    assert high == pytest.approx(5 + 3.2203 * (5 / 3) ** 0.5, abs=1e-2)


@pytest.mark.parametrize(
    ("n", "m", "rank"), [(6, 6, 6), (6, 20, 28), (7, 7, 9), (9, 9, 18), (10, 10, 24), (20, 20, 128)]
)
def test_ranks_by_the_exact_distribution(n: int, m: int, rank: int) -> None:
    """Tables of the Mann-Whitney statistic have one less: the most that is rejected at 5 %."""
    assert _rank(n, m) == rank


def test_passes_differ_but_runs_differ_as_much() -> None:
    comparison = compare([100, 100.01, 100.02, 99.99, 99.98, 100.0], [100.3, 100.31, 100.29, 100.3, 100.28, 100.32])
    assert comparison.word == "not significant"
    assert comparison.scatter_low_pct is not None
    assert comparison.scatter_low_pct > 0
    assert "not the scatter plus the 0.5 % by which two runs of the same configuration can differ" in comparison.reason


def test_passes_that_scatter() -> None:
    comparison = compare([90, 95, 100, 105, 110, 100], [91, 97, 101, 106, 111, 103])
    assert comparison.word == "not significant"
    assert comparison.reason == "the change is within the scatter of the passes"


@pytest.mark.parametrize(
    ("baseline", "candidate", "named"), [([1.0], [2.0, 2.1], "baseline"), ([1.0, 1.1], [2.0], "candidate")]
)
def test_one_pass_says_nothing_about_scatter(baseline: list[float], candidate: list[float], named: str) -> None:
    comparison = compare(baseline, candidate)
    assert (comparison.low_pct, comparison.high_pct, comparison.scatter_low_pct) == (None, None, None)
    assert comparison.word == "not significant"
    assert comparison.reason == f"the {named} has only one pass, so the scatter of its passes is not known"
    assert str(comparison).startswith("not significant: +")


def test_passes_that_have_nothing_in_common() -> None:
    low, high = interval(compare([1e-60, 1e60], [1e-60, 1e60]))
    assert (low, high) == (-100, np.inf)


def test_as_text() -> None:
    assert str(compare([100.0] * 6, [102.0] * 6)) == "faster: +2.00 % [+1.49, +2.51]"


@pytest.mark.parametrize("values", [[], [0.0, 1.0], [-1.0, 1.0], [1.0, float("inf")], [float("nan"), 1.0]])
def test_what_is_no_rate_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="baseline"):
        compare(values, [1.0, 1.0])
    with pytest.raises(ValueError, match="candidate"):
        compare([1.0, 1.0], values)


@pytest.mark.parametrize("pct", [-1, float("nan"), float("inf")])
def test_an_impossible_difference_between_runs_is_refused(pct: float) -> None:
    with pytest.raises(ValueError, match="run_to_run_pct"):
        compare([1.0, 1.0], [1.0, 1.0], run_to_run_pct=pct)


def test_another_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="rate or time"):
        compare([1.0], [1.0], quantity="speed")  # type: ignore[arg-type]


# Simulated. 600 samples of a coverage of 95 % lie between 92.3 and 97.7 % in 99.7 of 100 cases; the seeds are fixed


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.exp(0.01 * rng.standard_normal(n))


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.exp(0.3 * rng.standard_normal(n))


def exponential(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.exponential(size=n)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 9), (6, 6), (RANKS_LEAST, 20), (10, 10)])
@pytest.mark.parametrize("passes", [normal, skewed, exponential])
def test_coverage_of_the_passes_scatter(passes, n: int, m: int) -> None:
    rng = np.random.default_rng(n + 100 * m)
    held = 0
    for _ in range(600):
        low, high = interval(compare(passes(rng, n), passes(rng, m), run_to_run_pct=0))
        held += low <= 0 <= high
    assert 0.92 <= held / 600 <= 0.99


@pytest.mark.parametrize("passes", [3, 6, 10])
def test_coverage_where_runs_differ_as_much_as_is_said(passes: int) -> None:
    """Of two runs whose medians scatter by σ, 95 of 100 pairs differ by less than 1.96 √2 σ."""
    rng = np.random.default_rng(passes)
    pct = 100 * np.expm1(1.96 * 2**0.5 * BETWEEN)
    held = 0
    for _ in range(600):
        low, high = interval(compare(run_of(rng, passes), run_of(rng, passes), run_to_run_pct=pct))
        held += low <= 0 <= high
    assert 0.92 <= held / 600 <= 0.99


def test_the_same_thing_twice_is_hardly_ever_called_different() -> None:
    rng = np.random.default_rng(0)
    words = [compare(run_of(rng, 10), run_of(rng, 10)).word for _ in range(600)]
    assert words.count("not significant") > 0.95 * len(words)


@pytest.mark.parametrize("passes", [3, 6, 10])
def test_a_slowdown_of_one_percent_is_found(passes: int) -> None:
    rng = np.random.default_rng(passes)
    words = [compare(run_of(rng, passes), run_of(rng, passes, slower=0.01)).word for _ in range(600)]
    assert words.count("slower") > 0.95 * len(words)


def test_scatter_alone_would_call_runs_different() -> None:
    """Why the interval is widened: what the passes say about runs is too sure of itself."""
    rng = np.random.default_rng(0)
    words = [compare(run_of(rng, 10), run_of(rng, 10), run_to_run_pct=0).word for _ in range(600)]
    assert words.count("not significant") < 0.7 * len(words)

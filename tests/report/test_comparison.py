"""What two sides of recorded runs say: pairs, what is left out, answers."""

from pathlib import Path
from typing import Any

import pytest

from tests.compared import CPU, H200, passes_around, recorded, recorded_micro
from ttt_mlflow import names
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.micro_results import MicroResults
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.report.comparison import Compared, ComparisonOptions, compare_sides

OPTIONS = ComparisonOptions()


def side(root: Path, rate: float, count: int, seed: int, **given: Any) -> list[LocalRun]:
    """``count`` runs around this throughput. Their medians repeat within 0.1 %."""
    return [recorded(root, passes_around(rate * (1 + 0.0005 * (i - 1)), seed=seed + i), **given) for i in range(count)]


def compared(root: Path, rates: tuple[float, float], count: int = 1, **given: Any) -> Compared:
    left, right = (side(root, rate, count, 7 * i, **given) for i, rate in enumerate(rates))
    return compare_sides(left, right, OPTIONS)


@pytest.mark.parametrize(
    ("candidate", "answer"), [(1000.0, "no significant difference"), (970.0, "slower"), (1030.0, "faster")]
)
def test_one_run_a_side_on_a_gpu_whose_variance_is_known(tmp_path: Path, candidate: float, answer: str) -> None:
    (pair,) = compared(tmp_path, (1000.0, candidate)).pairs
    assert pair.answer == answer
    assert pair.comparison
    assert pair.comparison.baseline == pytest.approx(999.5, rel=1e-3)
    assert pair.comparison.run_to_run
    assert pair.conditions == ()
    assert pair.slowdown_pct == pytest.approx(100 * (1 - candidate / 1000), abs=0.1)


def test_one_run_a_side_elsewhere_says_how_many_are_needed(tmp_path: Path) -> None:
    for host in (CPU, {**H200, "gpu_name": "another GPU"}):
        (pair,) = compared(tmp_path, (1000.0, 900.0), host=host).pairs
        assert pair.answer == "cannot tell"
        assert "3 runs" in pair.why
    (pair,) = compared(tmp_path, (1000.0, 900.0), host=CPU, count=3).pairs
    assert pair.answer == "slower"


def test_runs_at_the_power_cap_do_not_use_the_variance_of_others(tmp_path: Path) -> None:
    (pair,) = compared(tmp_path, (1000.0, 995.0), values={"clock_event_sw_power_cap_pct": 80.0}).pairs
    (free,) = compared(tmp_path, (1000.0, 995.0)).pairs
    assert pair.comparison
    assert free.comparison
    assert pair.comparison.run_to_run != free.comparison.run_to_run


def test_configurations_are_paired_and_what_has_no_partner_is_listed(tmp_path: Path) -> None:
    left = [recorded(tmp_path, passes_around(1000 * b), config={"batch": b}) for b in (1, 2, 3)]
    right = [recorded(tmp_path, passes_around(1000 * b * 0.9, seed=b), config={"batch": b}) for b in (4, 3, 2)]
    found = compare_sides(left, right, OPTIONS)
    assert [pair.baseline[0].run.settings["batch"] for pair in found.pairs] == [2, 3]
    assert found.alone_baseline == (left[0].name,)
    assert found.alone_candidate == (right[0].name,)
    assert found.answer == "slower"
    assert found.geometric_mean_pct == pytest.approx(-10, abs=0.1)


def test_some_faster_and_some_slower_is_mixed(tmp_path: Path) -> None:
    left = [recorded(tmp_path, passes_around(1000), config={"batch": b}) for b in (1, 2)]
    right = [recorded(tmp_path, passes_around(1000 + 300 * (2 * b - 3)), config={"batch": b}) for b in (1, 2)]
    assert compare_sides(left, right, OPTIONS).answer == "mixed"


def test_two_single_runs_are_compared_though_they_differ_and_that_is_named(tmp_path: Path) -> None:
    one, other = recorded(tmp_path, passes_around(1000)), recorded(tmp_path, passes_around(1100), config={"batch": 256})
    (pair,) = compare_sides([one], [other], OPTIONS).pairs
    assert "batch: 128 and 256" in map(str, pair.conditions)
    assert "→" in pair.title
    with pytest.raises(BadInput, match="no configuration is on both sides"):
        compare_sides([one, one], [other, recorded(tmp_path, passes_around(1), config={"batch": 3})], OPTIONS)


def test_one_pair_of_repetitions_with_other_options(tmp_path: Path) -> None:
    left = [recorded(tmp_path, passes_around(1000 + i)) for i in range(3)]
    right = [recorded(tmp_path, passes_around(1100 + i), config={"use_compile": False}) for i in range(3)]
    (pair,) = compare_sides(left, right, ComparisonOptions(one_pair=True)).pairs
    assert pair.answer == "faster"
    assert [str(condition) for condition in pair.conditions] == ["use_compile: on and off"]


def test_invalid_runs_stay_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    bad = recorded(tmp_path, passes_around(500), tag={"ttt.verdict": "invalid", "ttt.reasons": "drift"})
    good = recorded(tmp_path, passes_around(1000))
    (pair,) = compare_sides([good], [bad], OPTIONS).pairs
    assert (pair.answer, pair.comparison) == ("cannot tell", None)
    assert pair.why.startswith("the candidate is invalid (drift)")
    (pair,) = compare_sides([good], [bad], ComparisonOptions(include_invalid=True)).pairs
    assert pair.answer == "slower"
    assert "verdict: valid and invalid" in map(str, pair.conditions)
    (pair,) = compare_sides([good], [bad, good], OPTIONS).pairs
    assert pair.comparison
    assert pair.comparison.candidate_runs == 1
    assert pair.left_out == (f"candidate {bad.id}: is invalid (drift); measure it again, or use --include-invalid",)


@pytest.mark.parametrize("status", ["error", "killed", "oom"])
def test_what_did_not_end_well_cannot_be_told(tmp_path: Path, status: str) -> None:
    good, bad = recorded(tmp_path, passes_around(1000)), recorded(tmp_path, [], status=status)
    (pair,) = compare_sides([good], [bad], OPTIONS).pairs
    assert pair.answer == "cannot tell"
    assert pair.counts
    assert "candidate" in pair.why


def test_what_fits_on_neither_side_counts_for_nothing(tmp_path: Path) -> None:
    left, right = recorded(tmp_path, [], status="oom"), recorded(tmp_path, [], status="oom")
    found = compare_sides([left], [right], OPTIONS)
    assert not found.pairs[0].counts
    assert found.geometric_mean_pct is None


def test_strict_makes_a_condition_decide(tmp_path: Path) -> None:
    left = recorded(tmp_path, passes_around(1000))
    right = recorded(tmp_path, passes_around(900), host={**H200, "driver": "590"})
    (pair,) = compare_sides([left], [right], OPTIONS).pairs
    assert (pair.answer, pair.condition_decided) == ("slower", False)
    (pair,) = compare_sides([left], [right], ComparisonOptions(strict=True)).pairs
    assert (pair.answer, pair.condition_decided) == ("cannot tell", True)
    assert pair.why == "strict: driver: 580.159.04 and 590 differ"
    unjudged = recorded(tmp_path, passes_around(1000), tag={"ttt.verdict": "unjudged"})
    (pair,) = compare_sides([unjudged], [unjudged], ComparisonOptions(strict=True)).pairs
    assert pair.why == "strict: verdict: unjudged on both sides"


def test_numbers_beside_the_headline(tmp_path: Path) -> None:
    left = recorded(tmp_path, passes_around(1000), values={"peak_memory_allocated_gb": 10.0, "joules_per_token": 2.0})
    right = recorded(tmp_path, passes_around(1000), values={"peak_memory_allocated_gb": 11.0})
    beside = {one.metric.name: one for one in compare_sides([left], [right], OPTIONS).pairs[0].beside}
    assert beside["peak_memory_allocated_gb"].change_pct == pytest.approx(10)
    assert beside["peak_memory_allocated_gb"].word == "worse"
    assert (beside["joules_per_token"].candidate, beside["joules_per_token"].change_pct) == (None, None)
    assert "decode_step_ms_p99" not in beside


def test_accuracy_is_beside_it_and_says_which_way_is_better(tmp_path: Path) -> None:
    """By the direction in the catalog."""
    left = recorded(
        tmp_path, passes_around(1000), values={"accuracy_ratio": 1.25, "accuracy_differing_tokens_pct": 2.0}
    )
    right = recorded(
        tmp_path, passes_around(1000), values={"accuracy_ratio": 1.0, "accuracy_differing_tokens_pct": 2.5}
    )
    beside = {one.metric.name: one.word for one in compare_sides([left], [right], OPTIONS).pairs[0].beside}
    assert (beside["accuracy_ratio"], beside["accuracy_differing_tokens_pct"]) == ("better", "worse")


def test_an_empty_side_and_two_kinds(tmp_path: Path) -> None:
    decode = recorded(tmp_path, passes_around(1000))
    prefill = recorded(tmp_path, passes_around(1000), config={"mode": "prefill"})
    with pytest.raises(BadInput, match="the candidate has no runs to compare"):
        compare_sides([decode], [], OPTIONS)
    with pytest.raises(BadInput, match="a run of decode and the candidate of prefill: compare two runs of one kind"):
        compare_sides([decode], [prefill], OPTIONS)


def test_prompts_of_another_length_are_another_measurement(tmp_path: Path) -> None:
    def micro(promptlen: int) -> LocalRun:
        run = recorded_micro(tmp_path, {("a", 16): passes_around(12), ("b", 16): passes_around(12)})
        path = run.artifact(names.ARTIFACT_MICRO_SAMPLES)
        assert path is not None
        results = MicroResults.read(path)
        results.cells[0].promptlen = promptlen
        path.write_text(results.model_dump_json())
        return run

    found = compare_sides([micro(2048)], [micro(2048)], OPTIONS)
    assert [pair.title for pair in found.pairs] == ["a b16 p2048", "b b16"]
    found = compare_sides([micro(2048)], [micro(512)], OPTIONS)
    assert [pair.title for pair in found.pairs] == ["b b16"]
    assert (found.alone_baseline, found.alone_candidate) == (("a b16 p2048",), ("a b16 p512",))


def test_kernels_of_other_widths_are_not_compared(tmp_path: Path) -> None:
    def micro(**widths: int) -> LocalRun:
        run = recorded_micro(tmp_path, {("a", 16): passes_around(12), ("b", 16): passes_around(12)})
        run.journal.set_used({**run.journal.settings, **widths})
        return run

    assert len(compare_sides([micro()], [micro(intermediate=5504, vocab=50277)], OPTIONS).pairs) == 2
    with pytest.raises(BadInput, match="no configuration is on both sides"):
        compare_sides([micro()], [micro(intermediate=352)], OPTIONS)


def test_titles_tell_kernels_of_other_shapes_apart(tmp_path: Path) -> None:
    def micro(**config: Any) -> LocalRun:
        return recorded_micro(tmp_path, {("a", 1): passes_around(12)}, config=config)

    two, four, half = micro(heads=2), micro(heads=4), micro(heads=4, dtype="bfloat16")
    (pair,) = compare_sides([two], [four], OPTIONS).pairs
    assert pair.title == "a b1 heads=2 → a b1 heads=4"
    with pytest.raises(BadInput, match="the baseline has a b1 heads=2; the candidate has a b1 heads=4"):
        compare_sides([two, two], [four], OPTIONS)
    found = compare_sides([two, four], [four, half], OPTIONS)
    assert [one.title for one in found.pairs] == ["a b1 heads=4 dtype=float16"]
    assert found.alone_candidate == ("a b1 heads=4 dtype=bfloat16",)
    assert [one.title for one in compare_sides([two, two], [two], OPTIONS).pairs] == ["a b1"]


def test_two_micro_runs_are_compared_kernel_by_kernel_and_batch_by_batch(tmp_path: Path) -> None:
    left = recorded_micro(
        tmp_path, {("a", 128): passes_around(12), ("a", 512): passes_around(50), ("b", 128): [3.0, 3.0]}
    )
    right = recorded_micro(tmp_path, {("a", 128): passes_around(11.4), ("a", 512): passes_around(52, seed=2)})
    found = compare_sides([left], [right], OPTIONS)
    assert [(pair.title, pair.answer) for pair in found.pairs] == [("a b128", "faster"), ("a b512", "slower")]
    assert [pair.unit for pair in found.pairs] == ["µs", "µs"]
    assert found.pairs[1].slowdown_pct == pytest.approx(4, abs=0.1)
    assert found.pairs[1].speed_pct == pytest.approx(-3.85, abs=0.1)
    assert found.alone_baseline == ("b b128",)
    assert "micro" not in {str(condition) for pair in found.pairs for condition in pair.conditions}

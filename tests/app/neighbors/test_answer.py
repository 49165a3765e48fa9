"""What is made of the runs alone and together: pairs on one GPU, the time in which all were measured, slower GPUs."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.compared import H200, passes_around, recorded
from ttt_mlflow.app.neighbors.answer import Answer, answer_of, common_time
from ttt_mlflow.app.neighbors.cases import Case, cases
from ttt_mlflow.app.neighbors.turns import ALONE, TOGETHER, One
from ttt_mlflow.config import RunConfig
from ttt_mlflow.record.passes import TimedPass
from ttt_mlflow.report.comparison_text import comparison_text

CASES = [Case(name, RunConfig(batch=batch, genlen=128)) for name, batch in (("launch-bound", 1), ("power-bound", 1024))]
PLACES = [f"{number} (NVIDIA H200)" for number in range(4)]
SPEEDS = [100.0, 95.0, 105.0, 100.0]  # GPUs that differ by more than neighbors change
PASS_MS = 1280.0  # of 100 tokens/s at a batch of one


def one(
    root: Path,
    side: str,
    gpu: int,
    rates: Sequence[float],
    round_number: int = 1,
    case: Case = CASES[0],
    starts_ms: float = 0.0,
    **values: float,
) -> One:
    """A run whose passes follow one another from ``starts_ms`` on. values: metrics."""
    tokens = case.config.batch * case.config.genlen
    ended, now = [], starts_ms
    for rate in rates:
        now += 1e3 * tokens / rate
        ended.append(round(now))
    config = {"batch": case.config.batch, "genlen": case.config.genlen}
    host = {**H200, "gpu_uuid": f"GPU-{gpu}"}
    run = recorded(root, rates, config=config, host=host, values=values, ended_ms=ended)
    return One(case.name, side, round_number, PLACES[gpu], run.journal)


def rounds(root: Path, change: float, case: Case = CASES[0], scale: float = 1.0, **values: float) -> list[One]:
    """Two rounds on four GPUs, with a change beside others by a factor, and 0.1 % of scatter between runs."""
    found, seed = [], 0
    for number in (1, 2):
        for gpu, speed in enumerate(SPEEDS):
            for side, factor in ((ALONE, 1.0), (TOGETHER, change)):
                seed += 1
                around = passes_around(scale * speed * factor * (1 + random.Random(seed).gauss(0, 1e-3)), seed=seed)
                more = values if side == TOGETHER else {}
                found.append(one(root, side, gpu, around, number, case, **more))
    return found


def found_in(runs: Sequence[One], asked: Sequence[Case] = CASES[:1]) -> Answer:
    answer = answer_of(asked, runs, PLACES)
    assert answer is not None
    return answer


def test_a_slowdown_of_each_gpu_is_found_although_the_gpus_differ_by_more(tmp_path: Path) -> None:
    answer = found_in(rounds(tmp_path, 0.98))
    (change,) = answer.changes
    assert (change.case, change.answer) == ("launch-bound", "slower")
    assert change.change_pct == pytest.approx(-2, abs=0.3)
    assert change.low_pct is not None
    assert change.high_pct is not None
    assert -2.5 < change.low_pct < -2 < change.high_pct < -1.5
    assert answer.differs
    assert answer.slower == ["GPU 1 is 5.1 % slower than the median of four (launch-bound)"]
    text = comparison_text(answer.report)
    assert "launch-bound: " in text
    assert "on all 4 GPUs at once" in text
    assert "Answer: slower: launch-bound" in text
    assert "GPU UUID" not in text, "both sides have the same GPUs"


def test_no_change(tmp_path: Path) -> None:
    answer = found_in(rounds(tmp_path, 1.0))
    assert [change.answer for change in answer.changes] == ["no significant difference"]
    assert not answer.differs
    assert answer.notes == ()


def test_each_case_has_its_answer_in_the_order_of_the_cases(tmp_path: Path) -> None:
    runs = [*rounds(tmp_path, 1.0, CASES[1], scale=1000), *rounds(tmp_path, 0.97)]
    answer = found_in(runs, CASES)
    assert [(change.case, change.answer) for change in answer.changes] == [
        ("launch-bound", "slower"),
        ("power-bound", "no significant difference"),
    ]


def test_only_passes_count_that_were_measured_while_all_were(tmp_path: Path) -> None:
    """GPU 1 starts three passes later than GPU 0: what each measured without the other is as fast as alone."""
    runs = []
    for number in (1, 2):
        for gpu in (0, 1):
            runs.append(one(tmp_path, ALONE, gpu, [100.0] * 8, number))
        runs.append(one(tmp_path, TOGETHER, 0, [100.0] * 3 + [90.0] * 4, number))
        runs.append(one(tmp_path, TOGETHER, 1, [90.0] * 4 + [100.0] * 5, number, starts_ms=3 * PASS_MS))
    (change,) = found_in(runs).changes
    assert change.change_pct == pytest.approx(-10)
    assert (change.low_pct, change.answer) == (pytest.approx(-10), "slower")


def test_runs_that_did_not_overlap_say_nothing(tmp_path: Path) -> None:
    runs = [one(tmp_path, ALONE, gpu, [100.0] * 4) for gpu in (0, 1)]
    runs += [one(tmp_path, TOGETHER, gpu, [100.0] * 4, starts_ms=gpu * 10 * PASS_MS) for gpu in (0, 1)]
    answer = found_in(runs)
    assert answer.changes == []
    assert list(answer.notes) == [
        f"launch-bound, round 1: the runs on all GPUs did not overlap on GPU {place}" for place in PLACES[:2]
    ]
    assert "cannot tell" in comparison_text(answer.report)


def test_few_pairs_cannot_tell(tmp_path: Path) -> None:
    runs = [one(tmp_path, side, gpu, [100.0] * 4) for side in (ALONE, TOGETHER) for gpu in (0, 1)]
    (change,) = found_in(runs).changes
    assert (change.answer, change.low_pct) == ("cannot tell", None)
    assert answer_of(CASES[:1], runs[:2], PLACES) is None, "nothing was measured together"
    assert answer_of(CASES, [], PLACES) is None


def test_what_limits_the_answer_is_said(tmp_path: Path) -> None:
    runs = rounds(tmp_path, 1.0, neighbor_gpus_busy=1.5)
    runs[0] = one(tmp_path, ALONE, 0, [100.0] * 8, neighbor_gpus_busy=0.4)
    record = runs[1].record
    assert record
    failed = recorded(tmp_path, [], status="error").journal
    runs += [One("launch-bound", TOGETHER, 2, PLACES[3], failed), One("launch-bound", ALONE, 2, PLACES[3], None, "why")]
    notes = found_in(runs).notes
    text = comparison_text(found_in(runs).report)
    assert "other GPUs of the host that were busy: 0.4 and 1.5" in text
    assert "launch-bound, together on GPU 3 (NVIDIA H200): not measured: of a test" in notes
    assert "launch-bound, alone on GPU 3 (NVIDIA H200): not measured: why" in notes
    assert "launch-bound: beside GPU 0 (NVIDIA H200), 1.5 of 3 other GPUs were busy, in the mean" in notes
    assert "launch-bound: GPU 0 (NVIDIA H200) was not alone: 0.4 other GPUs were busy, in the mean" in notes


def test_the_time_in_which_all_were_measured() -> None:
    first = [TimedPass(0, 10, 1), TimedPass(10, 20, 1)]
    second = [TimedPass(5, 14, 1), TimedPass(15, 24, 1)]
    assert common_time([first, second]) == (5, 20)


def test_the_three_cases_are_those_that_are_promised() -> None:
    named = {case.name: (case.config.inner_net, case.config.batch) for case in cases()}
    assert named == {
        "launch-bound": ("mlp_1_dual_triton", 1),
        "bandwidth-bound": ("mlp_2_dual_triton", 512),
        "power-bound": ("mlp_1_dual_triton", 1024),
    }

"""The question of a serving team: the highest throughput within a limit."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.report import h200
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.report.best_run import Best, best_of, parse_limits
from ttt_mlflow.report.results_grids import RunSet, results_of


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Sequence[RunRow]:
    return h200.rows(tmp_path_factory.mktemp("h200"))


def answer(rows: Sequence[RunRow], text: str) -> Best:
    (best,) = best_of(results_of([RunSet("", rows)], ""), parse_limits(text))
    return best


@pytest.mark.parametrize(
    ("text", "batch", "inner_net"),
    [
        ("decode_step_ms_p99 < 11", 1024, h200.LINEAR),
        ("decode_step_ms_p99 <= 10.33", 1024, h200.LINEAR),
        ("decode_step_ms_p99 < 10.33", 128, h200.LINEAR),
        ("metrics.decode_step_ms_p99<1e1", 128, h200.LINEAR),
        ("decode_step_ms_p99 < 100 and joules_per_token > 0.01 and batch >= 512", 1024, None),
        ("batch = 128 AND peak_memory_allocated_gb > 5", 128, h200.MLP),
    ],
)
def test_the_fastest_valid_run_within_the_limits(
    measured: Sequence[RunRow], text: str, batch: int, inner_net: str | None
) -> None:
    run = answer(measured, text).run
    assert run is not None
    assert (run.params["batch"], run.params.get("inner_net")) == (str(batch), inner_net)


def test_the_answer_in_words(measured: Sequence[RunRow]) -> None:
    best = answer(measured, "decode_step_ms_p99 < 11")
    assert best.run is not None
    assert best.lines == (
        "Best decode under decode_step_ms_p99 < 11: ttt-1b mlp_1_dual_triton b1024 g128, 131,109 tokens/s, "
        f"decode_step_ms_p99 10.33, run {best.run.id}",
    )


def test_what_is_not_valid_is_no_answer_but_said(measured: Sequence[RunRow]) -> None:
    best = answer(measured, "decode_step_ms_p99 < 100")
    assert best.run is not None
    assert best.run.params["batch"] == "1024"
    told = "Not counted, because not valid: 1 faster within the limit, of which the fastest is ttt-1b mlp_1_dual_triton"
    assert best.lines[1].startswith(f"{told} b8192")
    assert best.lines[1].endswith("(unjudged)")


def test_runs_without_the_number_are_counted(measured: Sequence[RunRow]) -> None:
    best = answer(measured, "joules_per_token < 1")
    assert "Not counted: valid runs without joules_per_token: 1" in best.lines


def test_none_within_the_limit(measured: Sequence[RunRow]) -> None:
    best = answer(measured, "decode_step_ms_p99 < 2")
    assert best.run is None
    assert "no valid run; the nearest has 2.184: ttt-1b mlp_1_dual_triton b128" in best.lines[0]


def test_each_kind_has_an_answer(tmp_path: Path) -> None:
    told = {"ttt.verdict": "valid"}
    rows = [
        h200.row(tmp_path, {"decode_tokens_per_s": 1.0}, told=told, batch=2),
        h200.row(tmp_path, {"prefill_tokens_per_s": 2.0}, told=told, batch=2, mode="prefill"),
    ]
    both = best_of(results_of([RunSet("", rows)], ""), parse_limits("batch < 3"))
    assert [(one.kind, one.run) for one in both] == [("decode", rows[0]), ("prefill", rows[1])]


@pytest.mark.parametrize(
    "text", ["", "decode_step_ms_p99", "< 10", "decode_step_ms_p99 < ten", "a < 1 and", "a < 1 or b < 2", "a <> 1"]
)
def test_no_limit(text: str) -> None:
    with pytest.raises(BadInput, match="is no limit; write it like decode_step_ms_p99 < 10"):
        parse_limits(text)


def test_a_misspelt_name(measured: Sequence[RunRow]) -> None:
    with pytest.raises(BadInput, match="best=decode_step_p99: no such column; did you mean decode_step_ms_p99"):
        answer(measured, "decode_step_p99 < 10")


def test_a_limit_is_shown_as_it_was_given() -> None:
    (limit,) = parse_limits("decode_tokens_per_s >= 1234567")
    assert str(limit) == "decode_tokens_per_s >= 1234567"

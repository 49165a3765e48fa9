"""The table of a sweep: what stands in a cell, what the notes say, the time that is left, and the file of the cells."""

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from ttt_mlflow.app.sweep.board import Board, CellState, in_minutes
from ttt_mlflow.app.sweep.check import Checked
from ttt_mlflow.app.sweep.grid import Cell, cells_of, sweep_id
from ttt_mlflow.app.sweep.live import dry_run_text
from ttt_mlflow.app.sweep.measured import Alike, Measured
from ttt_mlflow.config import RunConfig, SweepConfig
from ttt_mlflow.run.prediction import Prediction

NUMBERS = {
    "decode_tokens_per_s": 67641.2,
    "decode_tokens_per_s_ci_low": 67634.0,
    "decode_tokens_per_s_ci_high": 67646.0,
}


def board(seconds: float | None = None, **values: str) -> Board:
    cells = cells_of(SweepConfig.parse({"model_name": "ttt-1b:mlp_1_dual,ttt-1b:mlp_2_dual", **values}))
    prediction = Prediction(peak_bytes=4 * 10**9, seconds=seconds)
    states = [CellState(cell, Checked(cell.config, cell.config, prediction=prediction)) for cell in cells]
    return Board(sweep_id(cells), states)


def measured(status: str = "ok", verdict: str = "valid", gpu_name: str = "NVIDIA H200", **tags: str) -> Measured:
    known = {
        "ttt.verdict": verdict,
        "ttt.gpu_name": gpu_name,
        "ttt.method": "2",
        "ttt.code_id": "a",
        "ttt.config_id": "c",
    }
    return Measured(status, 0, {**known, **{f"ttt.{name}": text for name, text in tags.items()}}, NUMBERS)


def test_a_cell_says_what_became_of_it() -> None:
    one = board(batch="1").states[0]
    assert one.text == ""
    one.begin("0 (NVIDIA H200)")
    assert one.text == "being measured"
    one.end(measured(), None)
    assert one.text == "67,641 ±0.0089 %"
    assert one.took_s is not None
    one.end(measured(verdict="invalid", reasons="sw_thermal_slowdown"), None)
    assert one.text == "(67,641 ±0.0089 %)"
    for status, text in (("oom", "out of memory"), ("error", "failed"), ("killed", "stopped")):
        one.end(measured(status, message="why\nso"), None)
        assert (one.text, one.reason) == (text, "why so")
    one.end(None, "its process was stopped by SIGKILL")
    assert (one.text, one.state, one.reason) == ("failed", "failed", "its process was stopped by SIGKILL")


def test_an_interval_that_is_a_little_too_wide_is_not_said_to_be_as_wide_as_allowed() -> None:
    """At most ±1 % is allowed, and it was ±1.03 %."""
    one = board(batch="1").states[0]
    ends = {"decode_tokens_per_s_ci_low": 131620.0, "decode_tokens_per_s_ci_high": 134360.0}
    one.end(replace(measured(verdict="invalid"), metrics={"decode_tokens_per_s": 133360.0, **ends}), None)
    assert one.text == "(133,360 ±1.03 %)"


def test_the_end_says_how_invalid_runs_are_measured_again() -> None:
    table = board(batch="1")
    table.states[0].end(measured(verdict="invalid", reasons="wide_interval"), None)
    assert "--redo" not in "".join(table.notes()), "as long as others are left"
    table.states[1].end(measured(), None)
    *_, again, narrower = table.notes()
    assert again == "1 run is invalid: the same command with --redo invalid measures it again"
    assert narrower.startswith("wide_interval: more time (max_seconds)")
    table.states[1].end(measured(verdict="invalid", reasons="drift"), None)
    assert "2 runs are invalid: the same command with --redo invalid measures them again" in table.text()


@pytest.mark.parametrize(
    ("asked", "reason", "said"),
    [
        ({}, "wide_interval", "more time (max_seconds) or longer passes (genlen) narrow it"),
        ({"repeats": "3"}, "wide_interval", "more passes (repeats) or longer passes (genlen) narrow it"),
        ({"mode": "prefill", "repeats": "3"}, "short_section", "more passes (repeats) make it longer"),
    ],
)
def test_the_end_says_what_helps(asked: dict[str, str], reason: str, said: str) -> None:
    """Passes that were counted have no use for more time, nor a prompt for more decode steps."""
    table = board(None, batch="1", **asked)
    for one in table.states:
        one.end(measured(verdict="invalid", reasons=reason), None)
    assert f"{reason}: {said}, as a sweep of its own" in list(table.notes())


def test_a_reason_is_told_once() -> None:
    table = board(batch="1")
    for one in table.states:
        one.state, one.reason = "oom", "out of memory: ttt-1b b1 does not fit"
    assert any(note.endswith(": out of memory: ttt-1b b1 does not fit") for note in table.notes())
    assert "out of memory: out of memory" not in table.text()


def test_the_table_has_a_row_for_each_model_and_net_and_a_column_for_each_batch() -> None:
    table = board(batch="128,64")
    table.states[0].end(measured(), None)
    columns, rows = table.table()
    assert columns == ["tokens/s", "batch 64", "batch 128"]
    assert rows == [["ttt-1b mlp_1_dual", "", "67,641 ±0.0089 %"], ["ttt-1b mlp_2_dual", "", ""]]
    assert table.headline() == "4 runs: 1 measured, 3 to do"
    assert table.markdown("about 3 min left").splitlines()[0] == "**4 runs: 1 measured, 3 to do**; about 3 min left"
    _, rows = board(batch="1", genlen="8,16").table()
    assert {row[0] for row in rows} == {f"ttt-1b mlp_{net}_dual genlen={steps}" for net in (1, 2) for steps in (8, 16)}


def of_cells(cost_grows: bool | None, *asked: Mapping[str, object]) -> Board:
    states = [
        CellState(Cell(config), Checked(config, config, cost_grows=cost_grows))
        for config in (RunConfig.parse({"model_name": "ttt-1b", "inner_net": "mlp_1_dual", **one}) for one in asked)
    ]
    return Board("a", states)


def test_one_row_of_a_model_that_is_measured_with_more_steps_and_time_at_a_small_batch() -> None:
    asked = {"batch": 1, "genlen": 256, "max_seconds": 6}, {"batch": 64, "genlen": 16, "max_seconds": 9}
    table = of_cells(False, *asked)
    table.states[1].end(measured(), None)
    assert table.table()[1] == [["ttt-1b mlp_1_dual genlen=16 to 256", "", "67,641 ±0.0089 %"]]
    apart = [["ttt-1b mlp_1_dual genlen=256", "", ""], ["ttt-1b mlp_1_dual genlen=16", "", ""]]
    assert of_cells(True, *asked).table()[1] == apart, "the mean context is another"
    assert of_cells(None, *asked).table()[1] == apart, "it may be"


def test_two_cells_of_one_batch_are_told_apart_by_all_that_differs() -> None:
    table = of_cells(False, *({"batch": 1, "genlen": 16, "max_seconds": seconds} for seconds in (6, 9)))
    assert [row[0] for row in table.table()[1]] == [f"ttt-1b mlp_1_dual max_seconds={one}.0" for one in (6, 9)]
    table = of_cells(False, {"batch": 1, "genlen": 8}, {"batch": 1, "genlen": 16}, {"batch": 2, "genlen": 16})
    assert [row[0] for row in table.table()[1]] == [f"ttt-1b mlp_1_dual genlen={steps}" for steps in (8, 16)]


def test_what_was_chosen_for_a_model_names_no_row() -> None:
    table = board(batch="1")
    for one, compiled, path in zip(table.states, (True, False), ("launches", None), strict=True):
        used = one.cell.config.model_copy(update={"use_compile": compiled, "decode_path": path})
        one.checked = replace(one.checked, used=used)
    assert [row[0] for row in table.table()[1]] == ["ttt-1b mlp_1_dual", "ttt-1b mlp_2_dual"]
    both = board(batch="1", decode_path="launches,overlapped")
    both.states[0].checked = replace(
        both.states[0].checked, used=both.states[0].cell.config.model_copy(update={"decode_path": None})
    )
    assert [row[0] for row in both.table()[1]] == [
        "ttt-1b mlp_1_dual",
        "ttt-1b mlp_1_dual decode_path=overlapped",
        "ttt-1b mlp_2_dual decode_path=launches",
        "ttt-1b mlp_2_dual decode_path=overlapped",
    ]


def test_a_row_does_not_name_what_its_model_has_not() -> None:
    models = "ttt-1b:mlp_1_dual,transformer-1b,state-spaces/mamba-1.4b"
    _, rows = board(batch="1", model_name=models, decode_path="launches", attn_impl="math").table()
    assert [row[0] for row in rows] == [
        "ttt-1b mlp_1_dual decode_path=launches",
        "transformer-1b decode_path=launches attn_impl=math",
        "mamba-1.4b",
    ]


def test_different_gpus_and_code_are_said() -> None:
    table = board(batch="1")
    table.states[0].end(measured(), None)
    assert list(table.notes()) == ["Measured on: NVIDIA H200"]
    table.states[1].end(measured(gpu_name="NVIDIA A100", code_id="b"), None)
    _, rows = table.table()
    assert [row[1] for row in rows] == ["67,641 ±0.0089 %, NVIDIA H200", "67,641 ±0.0089 %, NVIDIA A100"]
    notes = list(table.notes())
    assert notes[0] == "Measured on different GPUs, named beside each number: NVIDIA H200, NVIDIA A100"
    assert notes[1].startswith("Measured with different versions of the code")


def test_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    table = board(batch="1,2")
    assert table.seconds_left(1) is None, "nothing tells"
    table.states[0].begin("0")
    now = 1010.0
    table.states[0].end(measured(), None)
    assert table.seconds_left(1) == 30.0
    table.states[1].begin("0")
    now = 1014.0
    assert table.seconds_left(2) == 13.0
    assert board(seconds=5.0, batch="1,2").seconds_left(1) == 20.0, "as predicted"
    known = board(seconds=5.0, batch="1,2")
    known.states[0].begin("0")
    now = 1024.0
    known.states[0].end(measured(), None)
    assert known.seconds_left(1) == 30.0, "the one that ended took twice as long as predicted"


def test_what_is_measured_alone_takes_its_time_alone() -> None:
    table = board(seconds=8.0, batch="1,2")
    table.states[0].alone = table.states[1].alone = "few tokens"
    assert table.seconds_left(4) == 8 + 8 + 2 * 8 / 4


def test_numbers_of_a_marked_gpu() -> None:
    table = board(batch="1")
    table.marked = {"uuid-3": "GPU 3 (NVIDIA H200) has power limit 500 W, its siblings have 700 W"}
    table.states[0].end(measured(gpu_uuid="uuid-0"), None)
    assert "†" not in table.text(), "nothing was measured on it"
    table.states[1].end(measured(gpu_uuid="uuid-3"), None)
    _, rows = table.table()
    assert [row[1] for row in rows] == ["67,641 ±0.0089 %", "67,641 ±0.0089 % †"]
    assert "† GPU 3 (NVIDIA H200) has power limit 500 W, its siblings have 700 W" in list(table.notes())
    assert "†" in table.markdown()


def test_what_is_known_of_the_gpus_is_beside_the_table() -> None:
    table = board(batch="1")
    table.remarks = ["GPU 3 is 1.8 % slower than the median of eight"]
    assert "  GPU 3 is 1.8 % slower than the median of eight" in table.text().splitlines()
    assert "- GPU 3 is 1.8 % slower than the median of eight" in table.markdown().splitlines()


def test_the_file_has_each_cell() -> None:
    table = board(batch="1")
    table.states[1].state, table.states[1].reason = "predicted_oom", "predicted to need 200 GB"
    one, other = table.file().cells
    assert (one.state, one.config["batch"], one.run_id) == ("missing", 1, None)
    assert (other.state, other.reason) == ("predicted_oom", "predicted to need 200 GB")
    assert other.key == table.states[1].cell.key


def test_what_is_alike() -> None:
    checked = board(batch="1").states[0].checked
    checked = Checked(checked.config, checked.config, config_id="c")
    alike = Alike("a", ["NVIDIA H200"], "2")
    assert alike.fits(measured(), checked)
    assert alike.fits(measured("oom"), checked)
    for other in (
        measured("error"),
        measured("killed"),
        measured(gpu_name="NVIDIA A100"),
        measured(code_id="b"),
        measured(method="1"),
        measured(config_id="d"),
    ):
        assert not alike.fits(other, checked)


def test_a_dry_run_shows_memory_and_time() -> None:
    table = board(seconds=30.0, batch="1,2")
    table.states[3].state, table.states[3].reason = "skipped", "not installed"
    text = dry_run_text(table, table.states[:3])
    assert "1   ttt-1b mlp_1_dual b1     4 GB   30 s" in text
    assert "skipped: not installed" in text
    assert "3 runs to measure, 2 min one after the other" in text
    assert f"ttt.sweep_id {table.sweep_id}" in text
    assert "  1 run to measure" in dry_run_text(table, table.states[:1])


@pytest.mark.parametrize(("seconds", "text"), [(40.4, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_times_for_people(seconds: float, text: str) -> None:
    assert in_minutes(seconds) == text

"""The yardstick of a sweep: measured first in each session, and compared between the sessions."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.app.sweep.conftest import Stored, Sweep
from ttt_mlflow.app.sweep import yardstick as yardstick_module
from ttt_mlflow.app.sweep.check import Checked
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.app.sweep.measured import Alike, Measured
from ttt_mlflow.app.sweep.yardstick import Yardstick
from ttt_mlflow.config import RunConfig
from ttt_mlflow.config.presets import PEERS
from ttt_mlflow.record.finding import find_journals

CELL = Cell(RunConfig.parse({"model_name": "ttt-tiny", "batch": 7, "device": "cpu"}))
CHECKED = Checked(CELL.config, CELL.config, config_id="an id")
ALIKE = Alike("code", ["CPU"], "1")
TAGS = {"ttt.config_id": "an id", "ttt.code_id": "code", "ttt.method": "1"}
# what is measured in a moment is not judged instead of invalid
WORDS = ("--yardstick=model_name=ttt-tiny batch=3 genlen=2 repeats=2", "--thresholds=section_s=1e-9,half_width_pct=1e9")


def measured(rate: float | None, verdict: str = "valid", status: str = "ok", **tags: str) -> Measured:
    found = {**TAGS, "ttt.cell": Yardstick(CELL, CHECKED).key, "ttt.verdict": verdict, **tags}
    return Measured(status, 0, found, {} if rate is None else {"decode_tokens_per_s": rate})


def after(*runs: Measured) -> Yardstick:
    found = Yardstick(CELL, CHECKED)
    found.remember(runs[:-1], ALIKE)
    found.end(runs[-1], None)
    return found


def test_sessions_that_agree() -> None:
    found = after(measured(1000.0), measured(1005.0), measured(1002.0))
    assert not found.disagrees
    assert found.text == ("Yardstick, ttt-tiny b7 cpu: 1,000, 1,005, 1,002 tokens/s; the sessions agree within 0.5 %")
    assert after(measured(1000.0)).text == "Yardstick, ttt-tiny b7 cpu: 1,000 tokens/s"


def test_sessions_that_differ_are_told() -> None:
    found = after(measured(1000.0), measured(1020.0))
    assert found.disagrees
    assert found.text.endswith("the sessions differ by 2 %: their numbers are not on one scale")


def test_an_invalid_or_failed_one_decides_nothing() -> None:
    found = after(measured(1000.0), measured(2000.0, "invalid"), measured(None, status="error"))
    assert (found.spread_pct, found.disagrees) == (None, False)
    assert "1,000, (2,000) tokens/s, error; nothing in this session: failed" in found.text
    found = Yardstick(CELL, CHECKED)
    found.end(None, "the process ended with code 1")
    assert found.text.endswith("not measured yet; nothing in this session: the process ended with code 1")


def test_only_runs_of_the_same_code_are_remembered() -> None:
    found = after(measured(900.0, **{"ttt.code_id": "other"}), measured(800.0, **{"ttt.cell": "x"}), measured(1000.0))
    assert len(found.runs) == 1


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=6))
def test_they_disagree_where_the_highest_exceeds_the_lowest_by_more_than_one_percent(rates: list[float]) -> None:
    found = after(*map(measured, rates))
    assert found.disagrees == (100 * (max(rates) / min(rates) - 1) > 1)
    assert ("differ by" in found.text) == found.disagrees


def test_each_session_begins_with_it_and_the_parent_shows_all(
    store: str, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sweep("--batch=1,2", *WORDS)
    assert first.exit_code == 0, first.output
    stored = Stored(store)
    assert len(stored.children) == 3
    records = sorted(find_journals("ttt_runs").journals, key=lambda one: one.status["started_at"])
    order = [one.run_name for one in records]
    assert order[0] == "sweep ttt-tiny b1,2"
    assert "b3" in order[1], "before the cells"
    note = stored.parent.data.tags["mlflow.note.content"]
    assert "Yardstick, ttt-tiny b3 g2 cpu: " in note
    assert "2 runs: 2 measured" in note, "it is no cell of the grid"
    assert "Yardstick, ttt-tiny" in first.stdout

    nothing = sweep("--batch=1,2", *WORDS)
    assert "All runs of this sweep are there" in nothing.stdout
    assert len(stored.children) == 3

    monkeypatch.setattr(yardstick_module, "AGREE_PCT", -1.0)
    again = sweep("--batch=1,2", *WORDS, "--redo=all", "--logdir=elsewhere")
    assert again.exit_code == 0, again.output
    assert len(stored.children) == 6
    assert "Warning: Yardstick" in again.stderr
    assert "the sessions differ by" in stored.parent.data.tags["mlflow.note.content"]


def test_a_yardstick_that_is_not_possible_is_refused_before_anything_is_measured(sweep: Sweep) -> None:
    result = sweep("--batch=1", "--yardstick=model_name=state-spaces/mamba-130m batch=1")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: yardstick: ")
    assert "mamba" in line
    assert "yardstick=none" in line


def test_models_of_a_preset_that_are_not_there_are_marked(store: str, sweep: Sweep) -> None:
    there = {"ttt-1b": "ttt-tiny"}
    words = ("--preset=peers", "--yardstick=none", "--inner-net=auto", f"--model-name={','.join(there.values())}")
    assert sweep(*words, "--promptlen=1", "--batch=1", "--mode=decode").exit_code == 0
    refused = sweep("--preset=peers", "--yardstick=none", "--model-name=auto", "--dry-run")
    assert refused.exit_code == 2
    assert f"model_name={PEERS[-1]}" in refused.stderr or "mamba-ssm" in refused.stderr


def test_a_key_of_its_own() -> None:
    one = Yardstick(CELL, CHECKED)
    assert one.key != CELL.key
    assert one.key != Yardstick(replace(CELL, config=CELL.config.model_copy(update={"batch": 8})), CHECKED).key

"""What a sweep shows while it goes on: a table on a terminal, else a line for each run."""

import io
import sys

import pytest

from tests.app.sweep.test_board import board, measured
from ttt_mlflow.app.sweep.live import Live


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_for_each_run_that_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    table = board(batch="1")
    with Live(table, 1, has_table=True) as live:
        live.show()
        table.states[0].begin("0 (NVIDIA H200)")
        table.states[0].end(measured(), None)
        live.tell(table.states[0])
        table.states[1].end(None, "its process was stopped by SIGKILL: \x1b[31m")
        live.tell(table.states[1])
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("1 of 2, ttt-1b mlp_1_dual b1: 67,641 ±0.0089 % tokens/s, valid, 0 s on 0 (NVIDIA H200)")
    assert second == "2 of 2, ttt-1b mlp_2_dual b1: failed: its process was stopped by SIGKILL: \\x1b[31m"


def test_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    table = board(seconds=60.0, batch="1,2")
    with Live(table, 1, has_table=True) as live:
        table.states[0].begin("0 (NVIDIA H200)")
        live.show()
    shown = terminal.getvalue()
    assert "being measured" in shown
    assert "4 runs: 1 being measured, 3 to do; about 4 min left; now ttt-1b mlp_1_dual b1 on 0 (NVIDIA H200)" in shown

"""The simulation of ab's stopping rule."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.ab_stopping import main, simulated


def test_runs_that_repeat_end_after_two_rounds_and_others_go_on() -> None:
    rng = np.random.default_rng(0)
    assert simulated(0.01, 1.0, 12, rng)[0] == 2
    assert simulated(10.0, 1.0, 12, rng)[0] == 12


def test_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--comparisons", "3", "--most-rounds", "3"]) == 0
    text = (tmp_path / "ab_stopping.txt").read_text()
    assert text.startswith(f"$ python -m benchmarks.ab_stopping {tmp_path} --comparisons 3")
    assert "runs differ by 2 %: " in text
    assert "runs differ by 2 %: " in capsys.readouterr().out

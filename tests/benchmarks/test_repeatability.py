import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import repeatability
from benchmarks.calibrate import Calibration
from benchmarks.repeatability import BASE, SLOW, Count, Outcome, Run, evaluate, main, write
from ttt_mlflow.errors import RunFailed, TTTError
from ttt_mlflow.record.journal import Journal


def made(kind: str, median: float, verdict: str = "valid", reasons: str = "") -> Run:
    """Seven passes that scatter by a hundredth of a percent."""
    rates = [median * (1 + 1e-4 * i) for i in range(-3, 4)]
    return Run(kind, f"{kind}-{median}", rates, verdict, reasons)


def in_turn(base: list[float], slow: list[float]) -> list[Run]:
    return [run for pair in zip(base, slow, strict=True) for run in (made(BASE, pair[0]), made(SLOW, pair[1]))]


def test_steady_runs_and_a_slowdown() -> None:
    outcome = evaluate(in_turn([1000.0, 1001.0, 999.0], [990.0, 991.0, 989.0]), 0.18)
    assert outcome.spread_pct == pytest.approx(100 * 2 / 999)
    deviation, low, high = outcome.deviation_pct
    assert deviation == pytest.approx(0.1, rel=0.01)
    assert (low, high) == pytest.approx((0.0521, 0.628), rel=0.01)  # χ² with 2 degrees of freedom: 7.378 and 0.0506
    assert outcome.capped is None
    assert outcome.slowdown_pct == pytest.approx(1.0)
    assert (outcome.base_pairs, outcome.neighbors) == (Count(0, 3), Count(0, 2))
    assert (outcome.found_one_each, outcome.found_all) == (Count(3, 3), Count(9, 9))
    assert outcome.passed


def test_base_runs_that_differ_are_missed() -> None:
    outcome = evaluate(in_turn([1000.0, 1010.0, 1000.0], [980.0, 980.0, 980.0]), 0.18)
    assert (outcome.base_pairs, outcome.neighbors) == (Count(2, 3), Count(2, 2))
    assert [holds for _, holds in outcome.checks] == [False, False, True, True]
    assert not outcome.passed


def test_a_slowdown_that_is_not_found_is_missed() -> None:
    outcome = evaluate(in_turn([1000.0] * 4, [998.0] * 4), 0.18)
    assert outcome.found_all == Count(0, 16)
    assert [holds for _, holds in outcome.checks] == [True, True, False, False]


def test_a_slow_run_that_looks_faster_is_not_a_find() -> None:
    assert evaluate(in_turn([1000.0] * 2, [1020.0] * 2), 0.18).found_all == Count(0, 4)


def test_invalid_runs_are_left_out_and_named() -> None:
    bad = made(BASE, 500.0, "invalid", "drift")
    runs = [made(BASE, 1000.0), bad, made(SLOW, 990.0), made(BASE, 1000.5), made(SLOW, 990.0)]
    outcome = evaluate(runs, 0.18)
    assert outcome.left_out == [f"{bad.journal_id} (base): drift"]
    assert outcome.base_pairs == Count(0, 1)
    assert outcome.found_one_each == Count(2, 2)


def test_base_runs_at_the_power_cap_are_counted() -> None:
    runs = [replace(made(BASE, 1000.0), power_cap_pct=share) for share in (0.0, 5.0, 5.1, 100.0)]
    assert evaluate(runs, 0.18).capped == Count(2, 4)
    assert evaluate([*runs, made(BASE, 1000.0)], 0.18).capped is None


def test_too_few_base_runs() -> None:
    with pytest.raises(TTTError, match=r"1 base runs .*drift"):
        evaluate([made(BASE, 1.0), made(SLOW, 1.0), made(BASE, 1.0, "invalid", "drift")], 0.18)


def test_twenty_runs_as_a_card_makes_them() -> None:
    """Medians with a σ of 0.1 %, as an H200's at most: all that is asked holds."""
    rng = np.random.default_rng(0)
    base = 1000 * np.exp(1e-3 * rng.standard_normal(20))
    slow = 990 * np.exp(1e-3 * rng.standard_normal(20))
    outcome = evaluate(in_turn(base.tolist(), slow.tolist()), 0.18)
    assert outcome.base_pairs.pairs == 190
    assert outcome.found_all is not None
    assert outcome.found_all.pairs == 400
    assert outcome.passed


def test_what_is_written(tmp_path: Path) -> None:
    runs = [*in_turn([1000.0, 1010.0], [990.0, 990.0]), made(BASE, 1.0, "invalid", "short_section")]
    outcome: Outcome = evaluate(runs, 0.18)
    text = write(tmp_path, outcome, runs, {"runs were made": "here"})
    assert text == (tmp_path / "repeatability.txt").read_text()
    assert "runs were made: here" in text
    assert "MISS  base medians within 0.5 % of each other: 1.000 %" in text
    assert "PASS  the slowdown found in at least 19 of 20, against every base run: 4 of 4 (100.0 %)" in text
    assert "left out, invalid: base-1.0 (base): short_section" in text
    kept = json.loads((tmp_path / "repeatability.json").read_text())
    assert kept["runs"][0]["tokens_per_s"] == runs[0].tokens_per_s
    assert [check["holds"] for check in kept["checks"]] == [False, False, True, True]
    assert (tmp_path / "repeatability.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("words", [["--runs", "1"], ["--slowdown-pct", "0"], ["--set", "seed"]])
def test_what_cannot_be_asked(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), *words]) == 2
    assert "--runs takes a number from 2" in capsys.readouterr().err


QUICK = ["--runs", "2", "--model", "ttt-tiny", "--batch", "1", "--genlen", "4", "--slowdown-pct", "900"]
QUICK += ["--set", "warmup=1", "--set", "repeats=3", "--set", "device=cpu"]
# such short runs are not valid
QUICK += ["--set", "thresholds=section_s=0,half_width_pct=1e9,drift_pct=1e9"]


@pytest.mark.long
def test_runs_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten times slower is found on any machine; whether the base runs agree is the machine's affair."""
    assert main([str(tmp_path), *QUICK, "--in-process"]) in (0, 1)
    kept = json.loads((tmp_path / "repeatability.json").read_text())
    assert [run["kind"] for run in kept["runs"]] == [BASE, SLOW, BASE, SLOW]
    assert kept["how"]["runs were made"] == "all in one process"
    assert kept["how"]["configuration"].startswith("ttt-tiny")
    assert kept["outcome"]["slowdown_pct"] > 0
    assert "slow run 2 of 2" in capsys.readouterr().out


def test_base_runs_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), *QUICK, "--in-process", "--base-only"]) in (0, 1)
    kept = json.loads((tmp_path / "repeatability.json").read_text())
    assert [run["kind"] for run in kept["runs"]] == [BASE, BASE]
    assert kept["how"]["runs"] == "2 of 2"
    assert kept["outcome"]["slowdown_pct"] is None
    said = capsys.readouterr().out
    assert "base run 2 of 2" in said
    assert "standard deviation of the base medians: " in said
    assert "base runs at the software power cap: not sampled" in said
    assert "slow run" not in said
    assert "fewer tokens" not in said


def test_what_was_measured_before_a_run_failed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = repeatability.record
    made = 0

    def record(*arguments: Any) -> Journal:
        nonlocal made
        made += 1
        if made > 4:
            raise RunFailed("the GPU is lost")
        return real(*arguments)

    monkeypatch.setattr(repeatability, "record", record)
    monkeypatch.setattr(repeatability, "prepare", lambda arguments: Calibration(1.0, 1.0, 100.0))
    monkeypatch.setattr(repeatability, "register_slowed", lambda base, us: base)
    assert main([str(tmp_path), *QUICK, "--in-process", "--runs", "3"]) == 2
    assert "the GPU is lost" in capsys.readouterr().err
    kept = json.loads((tmp_path / "repeatability.json").read_text())
    assert kept["how"]["runs"] == "4 of 6"
    assert len(kept["runs"]) == 4


def test_a_run_in_a_process_of_its_own_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--model", "nonesuch"]) == 2
    assert "model_name=nonesuch: no such model" in capsys.readouterr().err

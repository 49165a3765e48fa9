"""Two versions of the code in turns: each is measured by its own command line, and compared by its records."""

from pathlib import Path

import pytest

from benchmarks.two_versions import ORDER, Measured, main
from tests.project import ROOT, copy_project
from ttt_mlflow.names import POWER_W_MEAN, SM_CLOCK_MHZ_MEAN, TAG_VERDICT
from ttt_mlflow.record.journal import Journal

QUICK = [
    *("--model", "ttt-tiny", "--inner-nets", "mlp_1_dual", "--batches", "2", "--genlen", "3", "--seconds", "1"),
    *("--set", "device=cpu", "--set", "warmup=1", "--set", "repeats=3"),
]


@pytest.mark.long
def test_a_version_against_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_project(copy)
    output = tmp_path / "output"
    assert main([str(ROOT), str(copy), str(output), *QUICK]) == 0
    text = (output / "two_versions.txt").read_text()
    assert text.startswith(f"$ python -m benchmarks.two_versions {ROOT} {copy} ")
    assert "torch " in text
    assert "ttt-tiny, mlp_1_dual, 2: " in text
    assert [part.split()[0] for part in text.splitlines()[-1].strip().split("; ")] == list(ORDER)
    assert "ttt-tiny, mlp_1_dual, 2: " in capsys.readouterr().out


def test_the_conditions_that_were_measured(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, {"model_name": "ttt-tiny"})
    run = Measured("baseline", journal, [])
    assert run.conditions == "no verdict"
    journal.update_tags({TAG_VERDICT: "valid"})
    journal.update_metrics({SM_CLOCK_MHZ_MEAN: 1979.6, POWER_W_MEAN: 600.2})
    assert run.conditions == "valid, 1,980 MHz, 600 W"


def test_a_folder_without_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT), str(tmp_path), str(tmp_path / "output"), *QUICK]) == 2
    assert "candidate=" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


@pytest.mark.long
def test_a_run_that_fails_ends_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT), str(ROOT), str(tmp_path), *QUICK, "--set", "inner_net=none_such"]) == 1
    said = capsys.readouterr().err
    assert "ended with code 2" in said
    assert "no such inner net" in said

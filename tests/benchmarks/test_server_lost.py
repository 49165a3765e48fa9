"""The program that loses a tracking server in the middle of a measurement."""

from pathlib import Path

import pytest

from benchmarks.server_lost import main, verdict
from ttt_mlflow.measurement.comparison import Comparison

# measured long enough to be interrupted, on any machine
LONG_ENOUGH = ["--model-name=ttt-tiny", "--batch=2", "--genlen=16", "--device=cpu"]
LONG_ENOUGH += ["--max-seconds=15", "--precision-pct=0.0001", "--warmup=1"]


def found(low: float | None, high: float | None) -> Comparison:
    return Comparison("rate", 100.0, 100.1, 3, 3, 30, 30, 0.1, low, high)


@pytest.mark.parametrize(
    ("low", "high", "answer", "met"),
    [
        (-0.2, 0.4, "no significant difference", True),
        (-0.9, 0.8, "no significant difference", True),
        (0.1, 0.4, "faster", True),
        (-0.6, -0.4, "slower", False),
        (-2.0, 2.0, "cannot tell", False),
        (None, None, "cannot tell", False),
    ],
)
def test_the_requirement(low: float | None, high: float | None, answer: str, met: bool) -> None:
    is_met, line = verdict(found(low, high), answer)
    assert is_met == met
    assert line.startswith("Met: " if met else "Not met: ")


def test_what_cannot_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out"), "--runs", "1"])
    assert "--runs takes a number from 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_run_that_cannot_begin_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out"), "--", "--batch=0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: the run ended with code 2:")
    assert "batch=0: not allowed" in error


@pytest.mark.long
def test_two_runs_of_each_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    words = [str(output), "--runs", "2", "--after", "0.5", "--include-invalid", "--", *LONG_ENOUGH]
    assert main(words) in (0, 1)  # how even this machine is, is its own affair
    printed = capsys.readouterr().out
    lost = [line for line in printed.splitlines() if line.endswith(", not published")]
    assert [line.split(":")[0] for line in lost] == ["run 1 of 4, lost", "run 4 of 4, lost"]
    kept = (output / "server_lost.txt").read_text()
    assert kept.startswith(f"$ python -m benchmarks.server_lost {output} --runs 2")
    assert kept.splitlines()[-1].startswith(("Met: ", "Not met: "))

"""A side that is slower on purpose: what the copy is, and that its steps wait."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.slower_side import main
from tests.project import QUICK, environment
from ttt_mlflow.app.ab.sides import find_source
from ttt_mlflow.record.finding import find_journals


def test_the_steps_of_the_copy_wait(tmp_path: Path) -> None:
    """No speed: the wait is the least that a step can take, whatever else the machine does."""
    folder = tmp_path / "slower"
    assert main([str(folder), "20000"]) == 0
    options = [f"--{name}={value}" for name, value in {**QUICK, "logdir": tmp_path / "runs"}.items()]
    env = {**environment("postgresql://127.0.0.1:1/nowhere"), "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "ttt_mlflow", "run", *options]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    (journal,) = find_journals(tmp_path / "runs").journals
    assert journal.metrics["decode_step_ms_mean"] >= 20
    assert journal.settings["model_name"] == "ttt-tiny", "the name stays, so that the sides are one configuration"


def test_the_copy_is_a_side(tmp_path: Path) -> None:
    folder = tmp_path / "slower"
    main([str(folder), "1"])
    assert find_source("candidate", str(folder)).commit is None


@pytest.mark.parametrize(
    ("words", "says"),
    [([], "give either WAIT_US or --slowdown-pct"), (["1", "--slowdown-pct", "3"], "give either")],
)
def test_one_way_to_say_how_slow(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "slower"), *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "slower").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "1"]) == 2
    assert "it exists; name a new folder" in capsys.readouterr().err

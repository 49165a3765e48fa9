"""Order, stopping and single runs of ``ab``."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.app.ab.conftest import Project
from ttt_mlflow.app.ab import turns
from ttt_mlflow.app.ab.sides import Side, find_source, own_folders
from ttt_mlflow.app.ab.turns import (
    Limits,
    Rounds,
    measure_in_turns,
    narrow,
    run_once,
    words_of_a_run,
    words_of_a_warm_run,
)
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.comparison import Comparison, compare
from ttt_mlflow.record.journal import Journal

MEASURED = compare([[100.0, 101.0, 102.0]] * 4, [[100.0, 101.0, 102.0]] * 4)
RECORD = Journal(Path("/nowhere"))


def interval(half_width_pct: float) -> Comparison:
    return replace(MEASURED, low_pct=1 - half_width_pct, high_pct=1 + half_width_pct)


class Clock:
    """Each measurement takes ``run_s``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run_s: float) -> None:
        self.now, self.run_s = 0.0, run_s
        self.measured: list[str] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def measure(self, side: str) -> Journal:
        self.now += self.run_s
        self.measured.append(side)
        return RECORD


def rounds_of(clock: Clock, half_widths: Sequence[float], limits: Limits) -> Rounds:
    """Rounds after which the confidence interval is as wide as ``half_widths`` say; the last stays."""
    widths, rounds = list(half_widths), Rounds()

    def compared(baseline: Sequence[Journal], candidate: Sequence[Journal]) -> Comparison:
        assert len(baseline) == len(candidate)
        return interval(widths.pop(0) if len(widths) > 1 else widths[0])

    measure_in_turns(clock.measure, compared, limits, lambda so_far: None, rounds)
    return rounds


def test_two_rounds_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 10)
    rounds = rounds_of(clock, [0.1], Limits(1, 3600))
    assert clock.measured == ["baseline", "candidate", "candidate", "baseline"] * 2
    assert (rounds.ended, rounds.seconds, rounds.count) == ("resolution", [40, 40], 8)
    assert rounds_of(Clock(monkeypatch, 10), [5], Limits(1, 1)).ended == "time"


def test_until_it_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = rounds_of(Clock(monkeypatch, 10), [3, 2, 1.5, 1.0, 0.5], Limits(1, 3600))
    assert (rounds.ended, len(rounds.seconds)) == ("resolution", 4)


def test_no_round_begins_that_would_end_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(rounds_of(Clock(monkeypatch, 10), [5], Limits(1, 200)).seconds) == 5
    assert len(rounds_of(Clock(monkeypatch, 10), [5], Limits(1, 199)).seconds) == 4


def test_an_interruption_loses_no_complete_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rounds = Clock(monkeypatch, 1), Rounds()

    def measure(side: str) -> Journal:
        if len(clock.measured) == 6:
            raise KeyboardInterrupt
        return clock.measure(side)

    with pytest.raises(KeyboardInterrupt):
        measure_in_turns(measure, lambda *sides: interval(5), Limits(1, 3600), lambda so_far: None, rounds)
    assert (len(rounds.runs["baseline"]), len(rounds.runs["candidate"])) == (3, 3)
    assert rounds.ended is None
    assert rounds.comparable


def test_how_wide_is_narrow() -> None:
    assert narrow(interval(0.99), 1.0)
    assert not narrow(interval(1.02), 1.0)
    assert not narrow(None, 1.0)
    assert not narrow(replace(MEASURED, low_pct=None, high_pct=None), 1.0)


def test_what_the_user_gives_counts() -> None:
    assert words_of_a_run(["--max-seconds", "9"]) == (
        *("--max-seconds=4", "--thresholds=half_width_pct=100"),
        *("--max-seconds", "9"),
    )


def test_a_warm_run_makes_no_profile() -> None:
    assert words_of_a_warm_run(["--batch", "4"]) == ("--batch", "4", "--warmup=0", "--repeats=1")
    words = words_of_a_warm_run(["--profile", "nsys", "--nsys_args=-y 1", "--nsys-export", "sqlite"])
    assert words[5:] == (
        *("--warmup=0", "--repeats=1"),
        *("--profile=none", "--nsys-args=auto", "--nsys-export=none"),
    )


def once(project: Project, **behavior: object) -> Journal | None:
    """One run of a version with ``behavior``."""
    project.write("one", **behavior)  # type: ignore[arg-type]
    with own_folders([find_source("baseline", ".")], {"baseline": ()}) as (side,):
        return run_once(side, ["--batch=4"], project.folder / "ttt_runs", lambda: None)


def test_a_record_is_moved(project: Project) -> None:
    record = once(project)
    assert record is not None
    assert record.path.parent == project.folder / "ttt_runs"
    assert record.metrics["decode_tokens_per_s"] == 1000


@pytest.mark.parametrize(
    ("behavior", "says"),
    [
        ({"code": 1}, "`python -m ttt_mlflow run --batch=4` ended with code 1: no output"),
        ({"fails_after": 0, "failure": "Error: first\nError: last"}, "ended with code 1: Error: last"),
        ({"status": "error", "message": "it broke", "code": 0}, "left a record with status error: it broke"),
        ({"status": "oom", "message": "too large", "code": 3}, "ended with code 3: too large"),
        ({"rate": float("inf")}, "left a record that cannot be compared"),
        ({"signal": 9}, "was stopped by SIGKILL: no output"),
        ({"records": 0}, "left 0 records instead of one"),
    ],
)
def test_a_run_that_did_not_measure(project: Project, behavior: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput) as refused:
        once(project, **behavior)
    assert str(refused.value).startswith("baseline=.: `python -m ttt_mlflow run")
    assert says in str(refused.value)
    assert not (project.folder / "ttt_runs").exists()


def test_a_process_that_does_not_stop_is_killed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 0.5)

    def interrupted() -> None:
        if project.calls():
            raise KeyboardInterrupt

    project.write("stubborn", hangs_after=0, ignores_sigterm=True)
    with own_folders([find_source("baseline", ".")], {"baseline": ()}) as sides:
        (side,) = sides
        assert isinstance(side, Side)
        with pytest.raises(KeyboardInterrupt):
            run_once(side, [], project.folder, interrupted)
    assert not Path(f"/proc/{project.calls()[0]['pid']}").exists()

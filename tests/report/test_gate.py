"""The gate: which answers pass, and with which exit code."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.compared import CPU, H200, passes_around, recorded
from ttt_mlflow.report.comparison import Compared, ComparisonOptions, compare_sides
from ttt_mlflow.report.gate import Gate, decide

OPTIONS = ComparisonOptions()


def by(root: Path, percent: float, options: ComparisonOptions = OPTIONS, driver: str = "580.159.04") -> Compared:
    """A candidate that is slower by that percentage."""
    left = recorded(root, passes_around(1000))
    right = recorded(root, passes_around(1000 * (1 - percent / 100), seed=3), host={**H200, "driver": driver})
    return compare_sides([left], [right], options)


@pytest.mark.parametrize(
    ("slower", "limit", "code"),
    [(3.0, 2.0, 1), (1.5, 2.0, 0), (0.0, 2.0, 0), (-5.0, 2.0, 0), (3.0, 0.0, 1), (0.0, 0.1, 5), (3.0, None, 0)],
)
def test_exit_codes(tmp_path: Path, slower: float, limit: float | None, code: int) -> None:
    assert decide(by(tmp_path, slower), Gate(limit)).exit_code == code


def test_what_cannot_be_told(tmp_path: Path) -> None:
    left, right = (recorded(tmp_path, passes_around(1000), host=CPU) for _ in range(2))
    compared = compare_sides([left], [right], OPTIONS)
    assert decide(compared, Gate(2.0)).exit_code == 5
    assert decide(compared, Gate(2.0, inconclusive_ok=True)).exit_code == 0
    assert decide(compared, Gate()).exit_code == 0
    assert decide(compared, Gate()).text == ""


def test_slower_goes_before_cannot_tell(tmp_path: Path) -> None:
    left = [recorded(tmp_path, passes_around(1000), config={"batch": b}) for b in (1, 2)]
    right = [
        recorded(tmp_path, passes_around(900)[: 8 * (2 - b)], config={"batch": b}, status="ok" if b == 1 else "error")
        for b in (1, 2)
    ]
    decision = decide(compare_sides(left, right, OPTIONS), Gate(2.0))
    assert decision.exit_code == 1
    assert "slower, more than 2 %" in decision.text


def test_a_baseline_without_a_candidate(tmp_path: Path) -> None:
    compared = replace(by(tmp_path, 0.0), alone_baseline=("another configuration",))
    assert decide(compared, Gate(2.0)).exit_code == 5
    assert decide(compared, Gate(2.0, allow_missing=True)).exit_code == 0
    assert decide(replace(compared, alone_baseline=(), alone_candidate=("a new one",)), Gate(2.0)).exit_code == 0


def test_what_fits_on_neither_side_does_not_count(tmp_path: Path) -> None:
    left, right = (recorded(tmp_path, [], status="oom") for _ in range(2))
    assert decide(compare_sides([left], [right], OPTIONS), Gate(2.0)).exit_code == 0


def test_strict_alone(tmp_path: Path) -> None:
    strict = ComparisonOptions(strict=True)
    decision = decide(by(tmp_path, 3.0, strict, driver="590"), Gate())
    assert decision.exit_code == 5
    assert "driver: 580.159.04 and 590" in decision.text
    assert decide(by(tmp_path, 3.0, strict), Gate()).exit_code == 0

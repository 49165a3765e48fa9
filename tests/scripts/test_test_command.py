"""scripts/test.sh: which tests its arguments choose; the tools are stand-ins that note how they are called."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.project import ROOT

PLAIN = "not gpu and not long"
LONG = "long and not gpu"
PROPERTIES = "properties and not gpu --hypothesis-profile=thorough"
IN_PROCESSES = "-n 3 --dist loadfile --no-loadscope-reorder"
COMPILED = "python -m compileall -q ttt_mlflow scripts"
NO_TESTS = "5"  # pytest's exit code


@pytest.fixture
def calls(tmp_path: Path):
    """Run the script with arguments; its exit code, what it says on stderr, and the calls of the tools."""
    log = tmp_path / "log"
    for name in ("ruff", "mypy", "python", "mlflow"):
        # the exit codes of pytest's calls come one after another from PYTEST_EXITS
        (tmp_path / name).write_text(
            f'#!/bin/bash\necho "{name} $*" >>"{log}"\n'
            f"[[ {name} == python && $* == *pytest* ]] || exit 0\n"
            f'codes=(${{PYTEST_EXITS:-0 0 0}})\nexit "${{codes[$(grep -c pytest "{log}") - 1]}}"\n'
        )
        (tmp_path / name).chmod(0o755)

    def run(*arguments: str, **settings: str) -> tuple[int, str, list[str]]:
        log.write_text("")
        env = {**os.environ, "TTT_MLFLOW_ENV": "current", "PATH": f"{tmp_path}:{os.environ['PATH']}", **settings}
        done = subprocess.run([ROOT / "scripts/test.sh", *arguments], env=env, capture_output=True, text=True)
        return done.returncode, done.stderr, log.read_text().splitlines()

    return run


def test_plain_runs_leave_out_what_needs_a_gpu_or_takes_long(calls) -> None:
    code, _, called = calls()
    assert code == 0
    assert called == ["ruff check .", "mypy ", COMPILED, f"python -m pytest -m {PLAIN} {IN_PROCESSES}"]


def test_long_comes_after_everything_else(calls) -> None:
    code, _, called = calls("--long")
    assert code == 0
    assert called == [
        "ruff check .",
        "mypy ",
        COMPILED,
        f"python -m pytest -m {PLAIN} {IN_PROCESSES}",
        f"python -m pytest -m {LONG}",
        f"python -m pytest -m {PROPERTIES}",
    ]


def test_arguments_go_to_pytest(calls) -> None:
    assert calls("-m", "gpu", "-x")[2][2:] == [f"python -m pytest -m {PLAIN} -m gpu -x"]
    assert calls("tests/test_wheel.py", "--long", "-x")[2][2:] == [
        f"python -m pytest -m {PLAIN} tests/test_wheel.py -x",
        f"python -m pytest -m {LONG} tests/test_wheel.py -x",
        f"python -m pytest -m {PROPERTIES} tests/test_wheel.py -x",
    ]


@pytest.mark.parametrize(("exits", "code", "rounds"), [("1 0 0", 1, 1), ("0 1 0", 1, 2), ("0 0 1", 1, 3), ("4", 4, 1)])
def test_a_failure_is_one(exits: str, code: int, rounds: int, calls) -> None:
    found, _, called = calls("--long", PYTEST_EXITS=exits)
    assert found == code
    assert sum("pytest" in call for call in called) == rounds


def test_a_file_may_have_no_tests_for_one_of_the_rounds(calls) -> None:
    for exits in (f"{NO_TESTS} 0 {NO_TESTS}", f"0 {NO_TESTS} {NO_TESTS}", f"{NO_TESTS} {NO_TESTS} 0"):
        assert calls("--long", "tests/test_cli.py", PYTEST_EXITS=exits)[0] == 0
    assert calls("--long", "-k", "nothing", PYTEST_EXITS=" ".join([NO_TESTS] * 3))[0] == int(NO_TESTS)
    assert calls("-k", "nothing", PYTEST_EXITS=NO_TESTS)[0] == int(NO_TESTS)


@pytest.mark.parametrize("marker", [["-m", "gpu"], ["-mgpu"]])
def test_long_and_another_marker_are_refused(marker: list[str], calls) -> None:
    code, said, called = calls("--long", *marker)
    assert code == 1
    assert said == (f"Error: --long chooses tests by their marker, and so does {marker[0]}: give one of the two\n")
    assert called == []

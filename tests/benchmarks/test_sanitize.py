"""benchmarks/sanitize.sh with a compute-sanitizer and a python that only pretend."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sanitize.sh"
SANITIZER = """#!/bin/sh
[ "$1" = --version ] && exit 0
[ "$2" = racecheck ] && verdict=$RACECHECK || verdict=0
shift 4
"$@"
echo "========= ERROR SUMMARY: $verdict"
exit $verdict
"""
PYTHON = """#!/bin/sh
echo "OK linear $PYTORCH_NO_CUDA_MEMORY_CACHING"
exit ${PYTHON_CODE:-0}
"""


@pytest.fixture
def run(tmp_path):
    for name, text in {"compute-sanitizer": SANITIZER, "python": PYTHON}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(*tools: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            [SCRIPT, tmp_path / "out", *tools],
            env={**os.environ, "PATH": path, "RACECHECK": "0", **environment},
            capture_output=True,
            text=True,
        )

    return run


def test_nothing_reported(run, tmp_path):
    done = run()
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "initcheck.txt", "memcheck.txt", "plain.txt", "racecheck.txt",
    ]  # fmt: skip
    assert "OK linear 1" in (tmp_path / "out" / "memcheck.txt").read_text()
    assert "memcheck: exit code 0, 1 kernels OK" in done.stdout


def test_one_tool_reports_something(run):
    done = run(RACECHECK="9")
    assert done.returncode == 1
    assert "racecheck: exit code 9" in done.stdout
    assert "initcheck: exit code 0" in done.stdout


def test_a_tool_that_cannot_run(run):
    done = run("racecheck", RACECHECK="3")
    assert done.returncode == 2
    assert "ERROR SUMMARY: 3" in done.stderr


def test_kernels_that_fail_without_it(run, tmp_path):
    done = run("memcheck", PYTHON_CODE="1")
    assert done.returncode == 2
    assert "the kernels already fail without compute-sanitizer" in done.stderr
    assert not (tmp_path / "out" / "memcheck.txt").exists()


def test_no_folder(run):
    done = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: benchmarks/sanitize.sh OUTPUT_FOLDER")

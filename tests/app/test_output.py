"""Nobody takes what is printed: a reader that left, a full disk, a closed stream, a locale without the character."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import QUICK, ROOT, environment, new_store, ttt_mlflow_run
from tests.record.conftest import MakeJournal, make_journal

__all__ = ["make_journal"]
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}


def in_a_shell(command: list[str], how: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {how}', "sh", *command], cwd=ROOT, env=env, capture_output=True, text=True
    )


def assert_measured_and_published(runs: Path) -> None:
    (status,) = runs.glob("*/status.json")
    assert json.loads(status.read_text())["status"] == "ok"
    assert status.with_name("published.json").exists()


def test_a_closed_pipe_does_not_end_a_run(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    command = ttt_mlflow_run({**QUICK, "logdir": str(tmp_path / "runs")})
    process = subprocess.Popen(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(new_store(tmp_path))
    )
    os.close(reading)
    os.close(writing)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_measured_and_published(tmp_path / "runs")


@pytest.mark.long
@pytest.mark.parametrize("how", [">&-", ">/dev/full", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_run_without_an_output(how: str, tmp_path: Path) -> None:
    command = ttt_mlflow_run({**QUICK, "logdir": str(tmp_path / "runs")})
    done = in_a_shell(command, how, environment(new_store(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert_measured_and_published(tmp_path / "runs")


@pytest.fixture
def report(make_journal: MakeJournal) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """A command that imports little and prints a few lines."""
    record = make_journal().path
    command = [sys.executable, "-m", "ttt_mlflow", "record", "show", str(record)]
    return lambda how: in_a_shell(command, how, environment())


def test_a_report_that_cannot_be_written_is_told(report) -> None:
    done = report(">/dev/full")
    assert done.returncode == 1
    assert done.stderr == "Error: the output cannot be written (No space left on device); send it elsewhere\n"


@pytest.mark.parametrize("how", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_a_report_that_nobody_wants_is_no_failure(how: str, report) -> None:
    done = report(how)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_report_that_cannot_be_written_nor_told(report) -> None:
    assert report(">/dev/full 2>/dev/full").returncode == 1


@pytest.mark.long
def test_sync_brings_all_records_although_it_cannot_say_so(make_journal: MakeJournal, tmp_path: Path) -> None:
    journals = [make_journal(), make_journal()]
    command = [sys.executable, "-m", "ttt_mlflow", "sync", str(journals[0].path.parent)]
    done = in_a_shell(command, ">/dev/full", environment(new_store(tmp_path)))
    assert (done.returncode, done.stderr) == (0, "")
    assert all(journal.published for journal in journals)


def test_a_locale_that_cannot_say_a_character(make_journal: MakeJournal, tmp_path: Path) -> None:
    journal = make_journal("error", "the machine in Zürich said ±")
    command = [sys.executable, "-m", "ttt_mlflow", "record", "show", str(journal.path)]
    done = in_a_shell(command, "", environment() | ASCII)
    assert done.returncode == 0, done.stderr
    assert "Z\\xfcrich said \\xb1" in done.stdout

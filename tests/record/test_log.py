"""The log of a run on a disk that fills up: whole lines, a word on those that are missing, and no traceback."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_disk import MB, empty, fill, small_disk
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.log import RunLog, run_log


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1 * MB) as folder:
        yield folder


def test_lines_that_do_not_fit_are_left_out_and_counted(disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    journal, log = Journal.create(disk, {}), logging.getLogger("ttt_mlflow.here")
    with run_log(journal) as kept:
        log.info("first")
        fill(disk)
        for number in range(100):
            log.info("number %s %s", number, "x" * 100)
        assert kept.problem == "No space left on device"
        empty(disk)
        log.info("last")
    lines = (journal.artifacts / "log.txt").read_text().splitlines()
    assert lines[0].endswith(": first")
    assert lines[-1].endswith(": last")
    held = len(lines) - 3
    assert 0 < held < 100
    assert all(line.endswith("x" * 100) for line in lines[1 : held + 1])
    assert lines[-2] == f"({100 - held} lines are left out here: No space left on device)"
    assert capfd.readouterr().err == ""


def test_a_log_that_fits_is_complete(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, {})
    with run_log(journal) as kept:
        # to the handler alone: pytest keeps what is logged, and workers cannot send half a character to each other
        kept.emit(logging.LogRecord("ttt_mlflow", logging.WARNING, __file__, 1, "one\ntwo \udcff", (), None))
    assert kept.problem is None
    assert (journal.artifacts / "log.txt").read_text().endswith("one\ntwo \\udcff\n")


def test_a_message_that_does_not_fit_its_arguments_is_reported_as_by_logging(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = RunLog(tmp_path / "log.txt")
    handler.emit(logging.LogRecord("here", logging.INFO, __file__, 1, "%d", ("text",), None))
    assert "Logging error" in capfd.readouterr().err
    assert not (tmp_path / "log.txt").exists()

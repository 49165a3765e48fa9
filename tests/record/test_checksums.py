"""Checksums: a kill at any moment leaves a whole record, what was changed is found, copies end alike."""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import catalog
from tests.record.conftest import MakeJournal, without_checksums
from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.names import ARTIFACT_LOG, ARTIFACT_STEPS
from ttt_mlflow.record import checksums as checksums_module
from ttt_mlflow.record.checked import CheckedJournal
from ttt_mlflow.record.checksums import Checksums, of_file
from ttt_mlflow.record.journal import NO_RECORD_OF_THE_END, Journal
from ttt_mlflow.record.log import run_log


def lines(journal: Journal) -> list[str]:
    """Without the empty ones, whose space is reserved."""
    return list(filter(None, (journal.path / "checksums.jsonl").read_text().splitlines()))


def test_each_file_has_a_line_before_it_is_there(make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make_journal("running")
    replaced: list[tuple[str, bool]] = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        sha256, size = checksums_module.of_data(source.read_bytes())
        last = json.loads([line for line in lines(journal) if line][-1])
        replaced.append((last["path"], (last["sha256"], last["size"]) == (sha256, size)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    journal.update_metrics(catalog.metrics({"setup_s": 1.0}))
    journal.write_artifact(catalog.artifact("a/b.txt"), "text")
    assert replaced == [("metrics.json", True), ("artifacts/a/b.txt", True)]
    assert journal.faults() == []


def test_what_others_wrote_is_entered_when_it_is_complete_or_at_the_end(make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    first, second = (journal.artifact_path(catalog.artifact(f"profiles/{name}")) for name in ("a.bin", "b.bin"))
    first.write_bytes(b"complete")
    second.write_bytes(b"as large as it gets")
    journal.complete(first)
    assert "artifacts/profiles/a.bin" in journal.entered()
    assert "artifacts/profiles/b.bin" not in journal.entered()
    assert journal.faults() == []  # it goes on
    journal.set_status("ok")
    assert journal.entered()["artifacts/profiles/b.bin"].size == 19
    assert journal.faults() == []
    (journal.artifacts / "late.txt").write_text("after the end")
    assert journal.faults() == ["artifacts/late.txt: came after the end of the run; it has no checksum"]


def test_the_log_is_complete_before_the_final_status(make_journal: MakeJournal) -> None:
    import logging

    journal = make_journal("running")
    with run_log(journal):
        logging.getLogger("ttt_mlflow.of_a_test").warning("before the end")
        journal.set_status("ok")
        logging.getLogger("ttt_mlflow.of_a_test").warning("after the end")
    text = (journal.artifacts / ARTIFACT_LOG.path).read_text()
    assert "before the end" in text
    assert "after the end" not in text
    assert journal.faults() == []


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (
            lambda path: (path / "metrics.json").write_text("{}"),
            "metrics.json: not what was written (2 bytes instead of",
        ),
        (
            lambda path: _flip(path / "metrics.json", b"1234.5", b"1834.5"),
            "metrics.json: not what was written (as long, ",
        ),
        (
            lambda path: _flip(path / "artifacts/timing/steps.csv", b"1.5", b"7.5"),
            "artifacts/timing/steps.csv: not what",
        ),
        (lambda path: (path / "artifacts/timing/steps.csv").unlink(), "artifacts/timing/steps.csv: missing"),
        (lambda path: (path / "description.md").unlink(), "description.md: missing"),
        (lambda path: (path / "status.json").unlink(), "status.json: missing"),
        (lambda path: (path / "checksums.jsonl").unlink(), "checksums.jsonl: missing"),
        (lambda path: _flip(path / "checksums.jsonl", b'"sha256"', b'"sha257"'), "checksums.jsonl: line 1 is not what"),
        (
            lambda path: (path / "artifacts/more.txt").write_text(""),
            "artifacts/more.txt: came after the end of the run",
        ),
    ],
)
def test_what_was_changed_is_found(harm: Callable[[Path], object], fault: str, make_journal: MakeJournal) -> None:
    journal = make_journal()
    assert journal.faults() == []
    harm(journal.path)
    assert any(one.startswith(fault) for one in journal.faults()), journal.faults()
    with pytest.raises(DamagedRecord, match="ttt-mlflow record verify") as refused:
        journal.check()
    assert "\n" not in str(refused.value)


def _flip(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def test_a_reader_that_checks_sees_a_changed_number(make_journal: MakeJournal) -> None:
    journal = make_journal()
    assert CheckedJournal(journal.path).metrics["decode_tokens_per_s"] == 1234.5
    _flip(journal.path / "metrics.json", b"1234.5", b"1834.5")
    with pytest.raises(DamagedRecord, match=r"metrics\.json: not what was written"):
        _ = CheckedJournal(journal.path).metrics
    _flip(journal.path / "artifacts/timing/steps.csv", b"1.5", b"7.5")
    with pytest.raises(DamagedRecord, match=r"steps\.csv: not what was written"):
        CheckedJournal(journal.path).artifact_file(ARTIFACT_STEPS.path)
    (journal.path / "tags.json").unlink()
    with pytest.raises(DamagedRecord, match=r"tags\.json: missing"):
        _ = CheckedJournal(journal.path).tags


def test_an_older_record_is_whole_and_stays_without_checksums(make_journal: MakeJournal) -> None:
    journal = without_checksums(make_journal("running"))
    assert journal.faults() == []
    journal.set_target("sqlite:////nowhere/mlflow.db")
    journal.set_status("ok")
    assert not (journal.path / "checksums.jsonl").exists()
    assert (journal.faults(), journal.entered()) == ([], {})
    (journal.path / "metrics.json").write_text("[]")
    assert journal.faults() == ["metrics.json: not what a run wrote (it holds no object)"]


# A kill at any moment


class Killed(BaseException):
    """In the place of SIGKILL: nothing of the process runs after it."""


Moment = tuple[int, float]  # which write of a line or rename a kill hits, and how much of a line it lets through


class Countdown:
    """Lets a process get as far as a moment."""

    def __init__(self, moment: Moment) -> None:
        (self.left, self.part), self._write, self._replace = moment, os.pwrite, os.replace

    def write(self, file: int, data: bytes, place: int) -> int:
        if self._is_over() and self.part and self.left == -1:
            self._write(file, data[: int(self.part * len(data))], place)
        if self.left < 0:
            raise Killed
        return self._write(file, data, place)

    def replace(self, source: Path, target: Path) -> None:
        if self._is_over():
            raise Killed
        self._replace(source, target)

    def _is_over(self) -> bool:
        self.left -= 1
        return self.left < 0


def run_until(moment: Moment, what: Callable[[], object]) -> bool:
    """Do ``what`` until that moment. Returns whether it came to its end."""
    countdown = Countdown(moment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", countdown.write)
        patch.setattr(os, "replace", countdown.replace)
        try:
            what()
        except Killed:
            return False
    return True


def a_run(root: Path) -> None:
    journal = Journal.create(root, {"batch": 1})
    journal.update_metrics(catalog.metrics({"setup_s": 1.0}))
    journal.update_metrics(catalog.metrics({"setup_s": 2.0}))
    journal.write_artifact(catalog.artifact("a.txt"), "first")
    journal.artifact_path(catalog.artifact("b.bin")).write_bytes(b"by others")
    journal.write_artifact(catalog.artifact("a.txt"), "second")
    journal.set_target("sqlite:////nowhere/mlflow.db")
    journal.set_status("ok")


def close_as_if_ended(path: Path) -> None:
    journal = Journal(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttt_mlflow.record.journal.has_ended", lambda process: True)
        journal.close_abandoned()
    journal.set_target("sqlite:////elsewhere/mlflow.db")


STEPS = 24  # at least as many as a_run makes
MOMENTS = st.tuples(st.integers(0, STEPS), st.floats(0, 1, exclude_max=True))
CLOSING = st.tuples(st.integers(0, 6), st.floats(0, 1, exclude_max=True))


@settings(max_examples=150)
@given(kill=MOMENTS, kills=st.lists(CLOSING, max_size=4))
def test_a_kill_at_any_byte_leaves_a_whole_record(kill: Moment, kills: list[Moment]) -> None:
    """The run is killed, and so are the processes that close its record afterwards, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        run_until(kill, lambda: a_run(Path(folder)))
        (path,) = Path(folder).iterdir()
        if not (path / "status.json").exists():
            return  # no record yet
        assert Journal(path).faults() == []
        for moment in kills:
            run_until(moment, lambda: close_as_if_ended(path))
            assert Journal(path).faults() == []
        close_as_if_ended(path)
        assert Journal(path).faults() == []
        status = CheckedJournal(path).status
        assert status["status"] in ("ok", "killed")
        assert status["status"] == "ok" or status["message"] == NO_RECORD_OF_THE_END


def test_a_kill_between_line_and_file_and_again_while_the_record_is_closed(tmp_path: Path) -> None:
    """The status then has lines of an end that never came to be, one from each process that was killed."""
    last = next(step for step in range(STEPS) if run_until((step, 0.0), lambda: a_run(tmp_path / "whole"))) - 1
    for closing in range(6):
        root = tmp_path / str(closing)
        assert not run_until((last, 0.0), partial(a_run, root))
        (path,) = root.iterdir()
        for _ in range(3):
            run_until((closing, 0.0), partial(close_as_if_ended, path))
            assert Journal(path).faults() == []


def test_the_steps_are_enough_for_a_whole_run(tmp_path: Path) -> None:
    assert run_until((STEPS, 0.0), lambda: a_run(tmp_path))
    assert not run_until((STEPS // 2, 0.0), lambda: a_run(tmp_path))


@settings(max_examples=50)
@given(kill=MOMENTS, second=CLOSING)
@example(kill=(17, 0.0), second=(1, 0.0))  # between the line of the status and the status, then the same in the closing
def test_every_copy_of_a_killed_run_ends_at_the_same_time(kill: Moment, second: Moment) -> None:
    """Whenever it is closed, and even if the closing is killed first."""
    with tempfile.TemporaryDirectory() as folder:
        run_until(kill, lambda: a_run(Path(folder, "here")))
        (path,) = Path(folder, "here").iterdir()
        if not (path / "status.json").exists():
            return
        there = Path(shutil.copytree(path, Path(folder, "there", path.name)))
        for file in there.rglob("*"):
            os.utime(file, (1e9, 1e9))  # a copy has other times
        run_until(second, lambda: close_as_if_ended(there))
        ends = []
        for copy in (path, there):
            close_as_if_ended(copy)
            ends.append(Journal(copy).status["ended_at"])
        assert ends[0] == ends[1]


def test_whoever_publishes_meanwhile_does_no_damage(make_journal: MakeJournal) -> None:
    """It notes each artifact that arrived. Another process that reads the record must not take that for damage."""
    journal, ended = make_journal(), threading.Event()

    def publish() -> None:
        while not ended.is_set():
            for number in range(5):
                journal.set_uploaded("0" * 32, {f"{number}.txt": "0" * 64})

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        assert [found for _ in range(100) if (found := Journal(journal.path).faults())] == []
    finally:
        ended.set()
        publishing.join()


def test_a_changed_file_that_is_gone_at_the_second_look_stays_a_fault(
    make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, looked = make_journal(), set[str]()
    _flip(journal.path / "metrics.json", b"1234.5", b"1834.5")

    def once(folder: Path, name: str) -> tuple[str, int]:
        if name in looked:
            raise FileNotFoundError(name)
        looked.add(name)
        return of_file(folder, name)

    monkeypatch.setattr("ttt_mlflow.record.verify.of_file", once)
    assert [fault for fault in journal.faults() if fault.startswith("metrics.json: not what was written")]


def test_a_write_that_failed_leaves_the_old_line_as_the_last(
    make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make_journal("running")
    new = catalog.artifact("new.txt")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output"):
                journal.update_metrics(catalog.metrics({"setup_s": 2.0}))
            with pytest.raises(OSError, match="Input/output"):
                journal.write_artifact(new, "text")
    journal.set_status("ok")
    assert journal.faults() == []
    assert journal.entered()["artifacts/new.txt"].sha256 is None


def test_the_lines_are_not_read_again_for_each_file(make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    once = Checksums.read

    def noted(folder: Path) -> Checksums:
        read.append(folder)
        return once(folder)

    monkeypatch.setattr(Checksums, "read", noted)
    journal = make_journal("running")
    for number in range(100):
        journal.write_artifact(catalog.artifact(f"{number}.txt"), "text")
    assert read == []


def test_half_a_line_is_ignored_and_the_next_one_is_not_glued_to_it(make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    with (journal.path / "checksums.jsonl").open("a") as file:
        file.write('{"path": "metrics.json", "sha2')
    again = Journal(journal.path)
    assert again.faults() == []
    again.update_metrics(catalog.metrics({"setup_s": 3.0}))
    assert again.faults() == []
    assert Checksums.read(journal.path).faults == ()

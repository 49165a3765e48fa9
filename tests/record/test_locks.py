"""One process at a time, with the file system's locks and without."""

import errno
import fcntl
import json
import os
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.record.conftest import MakeJournal, start_python
from ttt_mlflow.errors import PublishFailed
from ttt_mlflow.record import locks
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.locks import locked
from ttt_mlflow.record.process import this_process


@pytest.fixture(params=[0, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def _locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system's locks, or its refusal to lock."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param:
        monkeypatch.setattr(fcntl, "flock", refuse)


def hold(path: Path, wait: bool = True) -> AbstractContextManager[None]:
    return locked(path, os.open(path, os.O_RDWR | os.O_CREAT), wait)


@pytest.mark.usefixtures("_locks")
def test_a_record_is_written_and_published_by_one_at_a_time(make_journal: MakeJournal) -> None:
    journal = make_journal()
    second = Journal.open(journal.path).publishing()
    with journal.publishing(), pytest.raises(PublishFailed, match="another process is publishing it"):
        second.__enter__()
    with journal.publishing():
        pass
    assert journal.faults() == []
    assert not [path.name for path in journal.path.iterdir() if locks.HELD in path.name]


@pytest.mark.usefixtures("_locks")
def test_threads_that_write_lines_at_once_lose_none(make_journal: MakeJournal) -> None:
    journal = make_journal()

    def note() -> None:
        for number in range(5):
            journal.set_uploaded("run", {str(number): "0" * 64})

    threads = [threading.Thread(target=note) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (journal.path / "checksums.jsonl").read_text().split("\n")
    assert sum('"uploaded.json"' in line for line in lines) >= 10
    assert all(json.loads(line) for line in lines if line)


# Without locks


@pytest.fixture
def _no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("_no_locks")
def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    program = "import json; from ttt_mlflow.record.process import this_process; print(json.dumps(this_process()))"
    ended, _ = start_python(program).communicate()
    held = tmp_path / f".lock{locks.HELD}"
    held.write_text(ended)
    with hold(tmp_path / ".lock", wait=False):
        assert json.loads(held.read_text()) == this_process()
    assert not held.exists()


@pytest.mark.usefixtures("_no_locks")
@pytest.mark.parametrize(("process", "left_after_s"), [({"boot_id": "another", "host": "another"}, 86_400), (None, 60)])
def test_a_lock_of_nobody_who_can_be_seen_is_left_when_it_is_old(
    process: dict[str, str] | None, left_after_s: float, tmp_path: Path
) -> None:
    """Of another host, and of a process that was killed as it took it."""
    held = tmp_path / f".lock{locks.HELD}"
    held.write_text(json.dumps(this_process() | process) if process else "")
    with pytest.raises(BlockingIOError), hold(tmp_path / ".lock", wait=False):
        pass
    os.utime(held, times=(time.time() - 2 * left_after_s,) * 2)
    with hold(tmp_path / ".lock", wait=False):
        pass


@pytest.mark.usefixtures("_no_locks")
def test_who_waits_gets_it_next(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with hold(tmp_path / "file"):
            order.append("second")

    thread = threading.Thread(target=second)
    with hold(tmp_path / "file"):
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]

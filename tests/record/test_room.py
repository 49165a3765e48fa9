"""Reserved space: it is used in place where the disk is full, and nothing outside the record is."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_disk import MB, fill, small_disk
from ttt_mlflow.record import room as room_module
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.room import FOLDER, Room


def nothing() -> None:
    """What is done before a file takes its place."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 2 * MB) as folder:
        yield folder


def test_what_is_reserved_is_real(disk: Path) -> None:
    room = Room(disk)
    room.reserve("one", 1 * MB)
    fill(disk)
    assert (disk / "filler").stat().st_size <= MB
    room.reserve("one", 1000)  # there is more already
    with pytest.raises(OSError, match="No space left"):
        room.reserve("one", 2 * MB)
    room.release()
    assert not (disk / FOLDER).exists()
    assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize >= MB


def test_a_full_disk_leaves_what_is_reserved_to_the_record(disk: Path) -> None:
    """Each write frees the old file, and something else takes that at once."""
    journal = Journal.create(disk, {})
    for index in range(10):
        journal.room.reserve(str(index), 16 << 10)
    for count in range(4):
        fill(disk)
        journal.update_params({str(number): "x" * 1000 for number in range(count)})
        assert len(journal.params) == count
    assert journal.faults() == []
    assert not list(journal.path.rglob("*.tmp"))


def test_more_than_is_reserved_fails_and_leaves_the_old_value(disk: Path) -> None:
    journal = Journal.create(disk, {})
    journal.update_params({"a": "b"})
    journal.room.reserve("one", 16 << 10)
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        journal.update_params({"long": "x" * (32 << 10)})
    assert journal.params == {"a": "b"}


def test_the_smallest_file_that_is_large_enough_is_used(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for size in (5000, 100, 2000):
        room.reserve(str(size), size)
    assert room.write(tmp_path / "file", b"x" * 150, nothing)
    assert (tmp_path / "file").read_bytes() == b"x" * 150
    assert {path.name for path in room.folder.iterdir()} == {"5000", "100"}
    assert not room.write(tmp_path / "file", b"x" * 5001, nothing)


def test_a_few_files_are_kept_for_publishing(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, {})
    for size in (5000, 100, 2000):
        journal.room.reserve(str(size), size)
    journal.room.release(keep=2)
    assert {path.name for path in journal.room.folder.iterdir()} == {"100", "2000"}
    journal.set_published("sqlite:///mlflow.db", "1", "2")
    assert not journal.room.folder.exists()


def test_a_file_system_that_never_writes_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is reserved is deleted, and the file is written anew."""
    room, fsync, asked = Room(tmp_path), os.fsync, []

    def full_once(descriptor: int) -> None:
        asked.append(descriptor)
        if len(asked) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    room.reserve("one", 100)
    room.reserve("two", 100)
    monkeypatch.setattr(room_module.os, "fsync", full_once)
    assert room.write(tmp_path / "file", b"text", nothing)
    assert (tmp_path / "file").read_bytes() == b"text"
    assert not room.folder.exists()


@pytest.mark.parametrize("kind", ["folder", "file", "hard link"])
def test_what_leads_out_of_the_record_is_not_written(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"x" * 1000)
    record = tmp_path / "record"
    (record / FOLDER).mkdir(parents=True)
    if kind == "folder":
        (record / FOLDER).rmdir()
        (record / FOLDER).symlink_to(outside)
    elif kind == "file":
        (record / FOLDER / "kept").symlink_to(outside / "kept")
    else:
        (record / FOLDER / "kept").hardlink_to(outside / "kept")
    room = Room(record)
    assert not room.write(record / "file", b"text", nothing)
    room.release()
    assert (outside / "kept").read_bytes() == b"x" * 1000

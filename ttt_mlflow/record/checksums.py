"""The checksums of a record's files: ``checksums.jsonl``, one line for each time that a file was complete.

A line is written before the file takes its place. So a process that is killed at any moment leaves files that have one
of their last two lines, and perhaps the beginning of a line at the end, which is ignored.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ttt_mlflow.errors import DamagedRecord, Uninterrupted
from ttt_mlflow.record.files import open_inside, read_inside
from ttt_mlflow.record.locks import locked

CHECKSUMS = "checksums.jsonl"
# Whatever publishes a record writes these, perhaps much later and on another host: they say nothing of the run's end.
OF_PUBLISHING = ("target.json", "uploaded.json", "published.json")
IN_FLIGHT = 4  # files that the threads of one process may be writing at the same moment, with room to spare
WHOLE_LINE = re.compile(rb'"at": "[^"\\]*"\}$')  # no beginning of a line ends like this
AT = re.compile(r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d(\.\d+)?\+00:00")
UNREADABLE = (ValueError, TypeError, RecursionError)
# Empty lines at the end while a run goes on: a disk that is full takes the lines in their place.
RESERVED = b"\n" * (64 << 10)
LINES_TO_PUBLISH = 8 << 10  # bytes of them that are kept after the end of the run, until the record is published
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One line. path: relative to the record. sha256: None for a file that was announced and never came to be."""

    path: str
    sha256: str | None
    size: int
    at: str

    @property
    def when(self) -> datetime:
        return datetime.fromisoformat(self.at)


def now() -> str:
    return datetime.now(UTC).isoformat()


def of_data(data: bytes) -> tuple[str, int]:
    """The checksum and the size of ``data``."""
    return hashlib.sha256(data).hexdigest(), len(data)


def of_file(folder: Path, name: str) -> tuple[str, int]:
    """Those of a file of the record ``folder``. Raises DamagedRecord for a link, and for what cannot be read."""
    try:
        with open(open_inside(folder, name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedRecord(f"{folder}/{name}: cannot be read ({error.strerror})") from None


def append(folder: Path, entries: Iterable[Entry], create: bool = False) -> None:
    """Write lines at the end, and have them on the disk. Nothing if the record has no checksums and is to get none."""
    lines = "".join(f"{json.dumps(vars(entry))}\n" for entry in entries).encode()
    with suppress(FileNotFoundError), _opened(folder, os.O_CREAT | os.O_EXCL if create else 0) as file:
        place = _end(file)
        if create:
            lines += RESERVED
        elif place and os.pread(file, 1, place) != b"\n":
            lines = b"\n" + lines  # after the beginning of a line, which a process that was killed has left
        elif place:
            place += 1
        while lines:
            written = os.pwrite(file, lines, place)
            place, lines = place + written, lines[written:]
        os.fdatasync(file)


def give_back(folder: Path, keep: int = 0) -> None:
    """Give back the reserved space that is left, but for ``keep`` bytes, after the end of a run."""
    with suppress(FileNotFoundError), _opened(folder) as file:
        end = _end(file)
        if os.pread(file, 1, end) == b"\n":  # else a process that was killed has left the beginning of a line
            os.truncate(file, min(end + 1 + keep, os.fstat(file).st_size))


@contextmanager
def _opened(folder: Path, flags: int = 0) -> Iterator[int]:
    """A descriptor of the file. Threads, and the process that publishes, write lines too: they wait until it is closed.

    Raises FileNotFoundError for a record of an earlier version.
    """
    with Uninterrupted():
        file = open_inside(folder, CHECKSUMS, os.O_RDWR | flags)
        try:
            with locked(folder / CHECKSUMS, file):
                yield file
        finally:
            os.close(file)


def _end(file: int) -> int:
    """Where the line feed after the last line is; where the next line begins, if there is none."""
    place = os.fstat(file).st_size
    while place:
        start = max(place - len(RESERVED), 0)
        if used := os.pread(file, place - start, start).rstrip(b"\n"):
            return start + len(used)
        place = start
    return 0


@dataclass(frozen=True)
class Checksums:
    """The lines as they were read. faults: of the file itself. There are none of a record of an earlier version."""

    entries: tuple[Entry, ...] = ()
    faults: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "Checksums":
        """Raises DamagedRecord if the file cannot be read."""
        try:
            lines = read_inside(folder, CHECKSUMS).rstrip(b"\n").split(b"\n")
        except FileNotFoundError:
            return cls()
        try:
            return cls(tuple(map(_entry, json.loads(b"[" + b",".join(lines) + b"]"))))
        except UNREADABLE:
            pass  # which line it is
        entries, faults = [], []
        for number, line in enumerate(lines, 1):
            try:
                entries.append(_entry(json.loads(line)))
            except UNREADABLE:
                if WHOLE_LINE.search(line):
                    faults.append(f"{CHECKSUMS}: line {number} is not what was written")
        return cls(tuple(entries), tuple(faults))

    @property
    def last(self) -> dict[str, Entry]:
        """The last line of each file."""
        return {entry.path: entry for entry in self.entries}

    @property
    def ended_at(self) -> datetime | None:
        """When the run wrote last; None for a record of an earlier version."""
        for entry in reversed(self.entries):
            with suppress(ValueError):  # such as the 30th of February, which no run wrote
                if entry.path not in OF_PUBLISHING:
                    return entry.when
        return None

    @cached_property
    def by_path(self) -> Mapping[str, list[Entry]]:
        """All lines of each file."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.path, []).append(entry)
        return found

    def allows(self, path: str, found: tuple[str, int] | None) -> bool:
        """Whether what was found is what was written, or what was there before a write that was killed.

        found: checksum and size of a file; None: there is none. A file without a line is not judged.
        """
        last_two = self.by_path.get(path, [])[-2:]
        if found is None:
            return not last_two or any(entry.sha256 is None for entry in last_two) or self.in_flight(path)
        return not last_two or any((entry.sha256, entry.size) == found for entry in last_two)

    def in_flight(self, path: str) -> bool:
        """Whether a process may have been killed before the file came to be for the first time.

        One that publishes may have been killed long ago, and what it would have written is not of the run.
        """
        recent = {*OF_PUBLISHING, *(entry.path for entry in self.entries[-IN_FLIGHT:])}
        return path in recent and len(self.by_path[path]) == 1


def _entry(line: Any) -> Entry:
    """The entry of one line. Raises TypeError for anything else."""
    entry = Entry(**line)
    if not (isinstance(entry.path, str) and isinstance(entry.size, int) and AT.fullmatch(entry.at)):
        raise TypeError
    if entry.sha256 is not None and not SHA256.fullmatch(entry.sha256):
        raise TypeError
    return entry

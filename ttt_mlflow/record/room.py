"""Disk space that a record holds for the numbers of its run, so that a disk that fills up does not cost them.

The space is files of random bytes in the folder ``.room`` of the record. A write that finds the disk full overwrites
one of them in place and renames it. The space is therefore never free in between, where another process could take it.
"""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

FOLDER = ".room"
CHUNK = 1 << 18
TO_PUBLISH = 8  # files for what is noted while a record is published, perhaps to a server that has room
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# what a file system answers that cannot take a file, however often it is asked
UNWRITABLE = (*NO_SPACE, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)


class Room:
    """The reserved space of the record in the folder ``record``."""

    def __init__(self, record: Path) -> None:
        self.folder = record / FOLDER

    def reserve(self, name: str, size: int) -> None:
        """Hold at least ``size`` bytes under ``name``. Raises OSError if the disk has less; what fits is held then."""
        self.folder.mkdir(exist_ok=True)
        with (self.folder / name).open("ab", buffering=0) as file:
            while (missing := size - file.tell()) > 0:
                file.write(os.urandom(min(missing, CHUNK)))  # not zeros, which a file system may compress

    def write(self, path: Path, data: bytes, before: Callable[[], None]) -> bool:
        """Replace ``path`` by a file with ``data`` in reserved space. False if no reserved file is large enough.

        before: called when all of the data is written, right before the file takes its place.
        """
        fitting = [(size, file) for size, file in self._files() if size >= len(data)]
        if not fitting:
            return False
        _, file = min(fitting)
        try:
            with file.open("r+b") as space:
                space.write(data)
                space.truncate()
                space.flush()
                os.fsync(space.fileno())
            before()
            os.replace(file, path)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            # a file system that never overwrites in place; what is deleted there becomes free
            self.release()
            write_whole(path, data, self.folder.parent, before)
        return True

    def release(self, keep: int = 0) -> None:
        """Give the space back, but for the ``keep`` smallest files."""
        if keep:
            for _, file in sorted(self._files())[keep:]:
                file.unlink(missing_ok=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[tuple[int, Path]]:
        """The reserved files and their sizes. What leads out of the record is none of them."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return []
        found = [(file.lstat(), file) for file in self.folder.iterdir()]
        return [(facts.st_size, file) for facts, file in found if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1]


def write_whole(path: Path, data: bytes, folder: Path, before: Callable[[], None]) -> None:
    """Replace the content of ``path`` with ``data`` atomically, by way of a file in ``folder`` (same file system).

    before: called when all of the data is written, right before the file takes its place.
    """
    unfinished = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        before()
        os.replace(unfinished, path)
    except BaseException:  # raised again after the temporary file is removed
        unfinished.unlink(missing_ok=True)
        raise

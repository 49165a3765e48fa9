"""Reads and writes files inside a record's folder, and nothing outside it: no link is followed.

The record's folder itself may be reached through a link: that is the choice of whoever named it.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from ttt_mlflow.errors import DamagedRecord

DEEPEST = 32  # folders within folders
LARGEST = 256 << 20  # bytes of a file that is read as a whole; a record's own files have a few MB
WITHOUT_LINKS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # nonblocking: opening a pipe would wait for a writer
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
WRONG_KIND = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EEXIST)


def open_inside(folder: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of the regular file ``name``, relative to the record's ``folder``.

    Raises DamagedRecord for a link or a folder in its place, also in that of a folder above it; FileNotFoundError if
    there is none, and OSError for what has nothing to do with the record, such as a full disk.
    """
    *above, last = inside(folder, name)
    flags |= WITHOUT_LINKS
    try:
        if above:
            with _opened(folder, above) as within:
                descriptor = os.open(last, flags, 0o666, dir_fd=within)
        else:
            descriptor = os.open(os.path.join(folder, last), flags, 0o666)
    except OSError as error:
        if error.errno in WRONG_KIND and (found := obstacle(folder, name)):
            raise DamagedRecord(f"{folder}/{name}: {found}") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedRecord(f"{folder}/{name}: {obstacle(folder, name) or 'no regular file'}")
    return descriptor


@contextmanager
def _opened(folder: Path, above: Sequence[str]) -> Iterator[int]:
    """A descriptor of the folder ``above`` in ``folder``, reached without links."""
    within = os.open(folder, FOLDER)
    try:
        for one in above:
            inner = os.open(one, FOLDER | os.O_NOFOLLOW, dir_fd=within)
            os.close(within)
            within = inner
        yield within
    finally:
        os.close(within)


def read_inside(folder: Path, name: str) -> bytes:
    """The content of ``name``. Raises as :func:`open_inside`, and DamagedRecord for what cannot be read."""
    try:
        with open(open_inside(folder, name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise DamagedRecord(f"{folder}/{name}: {size:,} bytes; no file of a record is that large")
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedRecord(f"{folder}/{name}: cannot be read ({error.strerror})") from None


def inside(folder: Path, name: str) -> list[str]:
    """The parts of ``name``, a path in ``folder``. Raises DamagedRecord for one that leads out of it, or is none."""
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise DamagedRecord(f"{folder}: names the file {name!r}, which is not inside the record")
    return parts


def obstacle(folder: Path, name: str) -> str | None:
    """What stands in the place of ``name`` or of a folder above it, in words; None if nothing is in the way."""
    parts = PurePosixPath(name).parts
    path = folder
    for place, part in enumerate(parts, 1):
        path /= part
        try:
            mode = path.lstat().st_mode
        except OSError:
            return None
        what = "" if path == folder / name else f"{'/'.join(parts[:place])} is "
        if stat.S_ISLNK(mode):
            return f"{what}a link; links in a record are not followed"
        if place < len(parts) and not stat.S_ISDIR(mode):
            return f"{what}no folder"
        if place == len(parts) and not stat.S_ISREG(mode):
            return "a folder in the place of a file" if stat.S_ISDIR(mode) else "no regular file"
    return None


def size_of(folder: Path) -> int:
    """The bytes of all files in the folder, links and what cannot be read left out."""
    size = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(above, name))
                size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return size


def walk(folder: Path, name: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All that is no folder below the folder ``name`` of the record, sorted: path relative to ``folder``, and entry.

    Links are named, not followed. Nothing if there is no such folder. Raises DamagedRecord if it is a link or a file,
    or cannot be read.
    """
    if name.count("/") > DEEPEST:
        raise DamagedRecord(f"{folder}: more than {DEEPEST} folders within folders in artifacts/")
    try:
        mode = (folder / name).lstat().st_mode
        if not stat.S_ISDIR(mode):
            what = "a link; links in a record are not followed" if stat.S_ISLNK(mode) else "no folder"
            raise DamagedRecord(f"{folder}/{name}: {what}")
        with os.scandir(folder / name) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DamagedRecord(f"{folder}/{name}: cannot be read ({error.strerror})") from None
    for entry in found:
        path = f"{name}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from walk(folder, path)
        else:
            yield path, entry

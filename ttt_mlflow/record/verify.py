"""Compares a record with what was written: its JSON, the kinds of its files, and their checksums."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.checksums import CHECKSUMS, OF_PUBLISHING, Checksums, Entry, of_file
from ttt_mlflow.record.files import obstacle, open_inside, read_inside, walk
from ttt_mlflow.record.json_files import CONFIG, SHAPES, read_json
from ttt_mlflow.record.pass_log import throughput_so_far

ARTIFACTS = "artifacts"
DESCRIPTION = "description.md"
OWN = (*SHAPES, DESCRIPTION)
NEEDED = (CONFIG, "status.json")
ATTEMPTS = 3  # a run that goes on may write between the reading of a file and that of its line


def faults_of(folder: Path, thorough: bool = True) -> list[str]:
    """How the record in ``folder`` differs from what was written, one line each; empty if it is whole.

    All its files are read; unless ``thorough``, of artifacts only the sizes. A record of an earlier version has no
    checksums: then only what its files hold is checked.
    """
    found: list[str] = []
    for _ in range(ATTEMPTS):
        found = list(dict.fromkeys(_faults(folder, thorough)))
        if not found or not _is_running(folder):
            break
    return found


def missing_checksums(folder: Path, status: dict[str, object]) -> str | None:
    """The fault of a record that was begun with checksums and has none; else None."""
    if status.get("checksums") and not os.path.lexists(folder / CHECKSUMS):
        return f"{CHECKSUMS}: missing"
    return None


def _is_running(folder: Path) -> bool:
    try:
        return bool(read_json(folder, "status.json").get("status") == "running")
    except DamagedRecord:
        return False


def _faults(folder: Path, thorough: bool) -> Iterator[str]:
    for name in OWN:
        try:
            if name == DESCRIPTION:
                read_description(folder)
            elif not read_json(folder, name) and name in NEEDED:
                yield f"{name}: missing"
        except DamagedRecord as error:
            yield short(folder, error)
    try:
        throughput_so_far(folder)
    except DamagedRecord as error:
        yield short(folder, error)
    try:
        yield from _links(folder)
        yield from _missing_checksums(folder)
        yield from _differences(folder, _is_running(folder), thorough)
    except DamagedRecord as error:
        yield short(folder, error)


def short(folder: Path, error: DamagedRecord) -> str:
    """The message without the record's folder."""
    return str(error).removeprefix(f"{folder}/").removeprefix(f"{folder}: ")


def read_description(folder: Path) -> str:
    """The description; empty if there is none. Raises DamagedRecord for what is no text."""
    try:
        return read_inside(folder, DESCRIPTION).decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise DamagedRecord(f"{folder}/{DESCRIPTION}: not a text") from None


def _missing_checksums(folder: Path) -> Iterator[str]:
    try:
        fault = missing_checksums(folder, read_json(folder, "status.json"))
    except DamagedRecord:
        return  # which is a fault of its own
    if fault:
        yield fault


def _links(folder: Path) -> Iterator[str]:
    """What is a link, or neither a file nor a folder. Other files beside those of the record are nobody's business."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DamagedRecord(f"{folder}: cannot be read ({error.strerror})") from None
    for name in names:
        found = obstacle(folder, name)
        if found and not (folder / name).is_symlink() and (folder / name).is_dir():
            continue
        if found:
            yield f"{name}: {found}"
    for path, entry in walk(folder, ARTIFACTS):
        if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            yield f"{path}: {obstacle(folder, path)}"


def _differences(folder: Path, running: bool, thorough: bool) -> Iterator[str]:
    """Which files are not those that were written."""
    # Before the lines, so that a file that comes to be meanwhile is not taken for one without a line.
    there = [path for path, entry in walk(folder, ARTIFACTS) if entry.is_file(follow_symlinks=False)]
    there += [name for name in OWN if (folder / name).is_file()]
    checksums = Checksums.read(folder)
    yield from checksums.faults
    if not checksums.entries:
        return
    for path, entries in checksums.by_path.items():
        try:
            found = of_file(folder, path) if thorough or path in OWN else _by_size(folder, path, entries)
        except FileNotFoundError:
            is_sealed = not running and entries[-1].sha256 is not None and path not in OF_PUBLISHING
            if is_sealed or not checksums.allows(path, None):
                yield f"{path}: missing"
            continue
        except DamagedRecord as error:
            yield short(folder, error)
            continue
        if not checksums.allows(path, found) and (still := _found_again(folder, path, found)) is not None:
            size, was = still[1], entries[-1].size
            what = f"{size:,} bytes instead of {was:,}" if size != was else "as long, with other content"
            yield f"{path}: not what was written ({what})"
    for path in there:
        if path not in checksums.by_path and not running:
            yield f"{path}: came after the end of the run; it has no checksum"


def _found_again(folder: Path, path: str, found: tuple[str, int]) -> tuple[str, int] | None:
    """What is found of a file whose last lines say something else, also if both are read again; else None.

    found: at first. It counts if the file cannot be read any more.

    Whoever publishes the record writes meanwhile, after each artifact that was sent.
    """
    for _ in range(ATTEMPTS):
        try:
            found = of_file(folder, path)
        except (FileNotFoundError, DamagedRecord):
            continue
        if Checksums.read(folder).allows(path, found):
            return None
    return found


def _by_size(folder: Path, path: str, entries: Sequence[Entry]) -> tuple[str, int]:
    """The checksum that a file of this size has by its lines, and its size. Nothing of it is read."""
    descriptor = open_inside(folder, path)
    try:
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    return next((entry.sha256 for entry in entries[-2:] if entry.sha256 and entry.size == size), ""), size

"""Sends the files of a record to its run. A file counts as sent once what arrived was checked."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import dirname
from queue import Empty, SimpleQueue
from typing import TypeVar

from ttt_mlflow import names
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.json_files import CONFIG
from ttt_mlflow.tracking.artifact_stores import ArtifactStore, sha256_of

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
READ_BACK = 1_000_000  # bytes; a smaller file is always read back
WORKERS = 4  # requests at once: a server may take a second for each


@dataclass(frozen=True)
class RunFile:
    """A file of a record. path: its path in the run. size: in bytes."""

    path: str
    source: Path
    size: int
    sha256: str

    @classmethod
    def of(cls, path: str, source: Path) -> "RunFile":
        return cls(path, source, source.stat().st_size, sha256_of(source))

    @property
    def is_small(self) -> bool:
        return self.size < READ_BACK


@dataclass
class Delivery:
    """What came of sending files. verified: path -> SHA-256 of what is there. faults: what did not arrive whole."""

    verified: dict[str, str]
    faults: list[str] = field(default_factory=list)


def files_of(journal: Journal) -> list[RunFile]:
    """The files of a record that has ended, in the order in which they are sent: small ones first.

    Raises DamagedRecord for what is no file of a record, such as a link.
    """
    sources = {names.ARTIFACT_CONFIG.path: journal.path / CONFIG}
    if journal.description:
        sources[names.ARTIFACT_SUMMARY.path] = journal.path / "description.md"
    sources |= {path: journal.artifacts / path for path in journal.artifact_files()}
    return _ordered(RunFile.of(path, source) for path, source in sources.items())


def files_so_far(journal: Journal) -> list[RunFile]:
    """The artifacts of a run that goes on which are complete already."""
    entered = journal.entered()
    complete = [path for path in journal.artifact_files() if f"artifacts/{path}" in entered]
    files = [RunFile.of(path, journal.artifacts / path) for path in complete]
    return _ordered(one for one in files if one.sha256 == entered[f"artifacts/{one.path}"].sha256)


def _ordered(files: Iterable[RunFile]) -> list[RunFile]:
    return sorted(files, key=lambda file: (not file.is_small, file.size, file.path))


@dataclass(frozen=True)
class Sender:
    """Sends files to ``store``. keep: is told what is verified.

    read_all: read large files back too, and those that were verified before.
    """

    store: ArtifactStore
    keep: Callable[[Mapping[str, str]], None]
    read_all: bool = False

    def send(self, files: Sequence[RunFile], verified: Mapping[str, str]) -> Delivery:
        """Send what is missing or different. ``verified``: what earlier publications verified in this run."""
        there = self._listed(files)
        known = {one.path for one in files if verified.get(one.path) == one.sha256 and _fits(one, there)}
        done = Delivery({} if self.read_all else {path: verified[path] for path in known})
        rest = [one for one in files if one.path not in done.verified]
        present = [one for one in rest if _fits(one, there)]
        differences = in_parallel(lambda one: self._difference(one, one.path in known), present)
        done.verified |= {one.path: one.sha256 for one, fault in zip(present, differences, strict=True) if not fault}
        self._keep(done)
        missing = [one for one in rest if one.path not in done.verified]
        for group in [[one for one in missing if one.is_small], *([one] for one in missing if not one.is_small)]:
            self._send(group, done)
        return done

    def _send(self, files: Sequence[RunFile], done: Delivery) -> None:
        in_parallel(lambda one: self.store.put(one.source, one.path), files)
        there = self._listed(files)
        faults = in_parallel(lambda one: _misfit(one, there) or self._difference(one, was_sent=True), files)
        for one, fault in zip(files, faults, strict=True):
            if fault is None:
                done.verified[one.path] = one.sha256
            else:
                done.faults.append(f"{one.path} ({fault})")
        self._keep(done)

    def _keep(self, done: Delivery) -> None:
        if done.verified:
            self.keep(done.verified)

    def _listed(self, files: Sequence[RunFile]) -> dict[str, int | None]:
        folders = sorted({dirname(one.path) for one in files})
        return {path: size for found in in_parallel(self.store.listed, folders) for path, size in found.items()}

    def _difference(self, file: RunFile, was_sent: bool) -> str | None:
        """How what is there differs from ``file``; None if it does not.

        A large file of which the store tells no checksum counts as the same if this record sent it.
        """
        if file.is_small or self.read_all:
            return None if self.store.sha256(file.path) == file.sha256 else "other content"
        told = self.store.told(file.path, file.source)
        return None if told or (told is None and was_sent) else "other content"


def _fits(file: RunFile, there: Mapping[str, int | None]) -> bool:
    return _misfit(file, there) is None


def _misfit(file: RunFile, there: Mapping[str, int | None]) -> str | None:
    if file.path not in there:
        return "not there"
    size = there[file.path]
    return None if size is None or size == file.size else f"{size:,} of {file.size:,} bytes"


def in_parallel(do: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
    """``do`` of each item, in the order of the items. The first error ends it and is raised.

    The threads are daemons. Those of ``concurrent.futures`` would keep a process from ending that gave up on a server.
    """
    if len(items) < 2:
        return [do(one) for one in items]
    left: SimpleQueue[int] = SimpleQueue()
    for index in range(len(items)):
        left.put(index)
    outcomes: dict[int, Outcome] = {}
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                index = left.get_nowait()
            except Empty:
                return
            try:
                outcomes[index] = do(items[index])
            except BaseException as error:  # raised again below
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(WORKERS, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [outcomes[index] for index in range(len(items))]

"""Enters the files of one record into its checksums, whatever moment the process is killed at."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.checksums import CHECKSUMS, Checksums, Entry, append, give_back, now, of_data, of_file
from ttt_mlflow.record.files import walk


class Register:
    """The checksums of the record ``folder``, for whoever writes it. A record of version 0.1 has none and gets none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all_sure = False  # whether each file's last line is known to be that of its content
        self._sure: set[str] = set()  # else: of these files it is known

    def create(self) -> None:
        append(self._folder, [], create=True)
        self._all_sure = True

    def announce(self, name: str, data: bytes, at: str | None = None) -> None:
        """Enter ``data`` as what the file ``name`` will hold in a moment."""
        if not self._all_sure and name not in self._sure:
            self._make_sure(name, at)
        append(self._folder, [Entry(name, *of_data(data), at or now())])
        self._sure.add(name)

    def doubt(self, name: str) -> None:
        """After :meth:`announce`: the file did not come to be what was announced."""
        self._all_sure = False
        self._sure.discard(name)
        with suppress(OSError, DamagedRecord):  # what stood in the way may still do; then it is entered later
            self._make_sure(name)

    def enter(self, names: Iterable[str]) -> None:
        """Enter files that are complete."""
        if self._exists:
            append(self._folder, [Entry(name, *of_file(self._folder, name), now()) for name in names])

    def seal(self, artifacts: str, at: str | None = None, killed: bool = False) -> None:
        """Enter all files of the folder ``artifacts`` that have no line.

        killed: also what the process announced and did not live to write. Links are left out, and what cannot be read:
        both are faults of the record.
        """
        if not self._exists:
            return
        checksums, entries, at = Checksums.read(self._folder), [], at or now()
        written = checksums.last
        for path, entry in walk(self._folder, artifacts):
            if path not in written and stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                with suppress(DamagedRecord, FileNotFoundError):
                    entries.append(Entry(path, *of_file(self._folder, path), at))
        if killed:
            gone = [path for path in written if checksums.in_flight(path) and not os.path.lexists(self._folder / path)]
            entries += [Entry(path, None, 0, at) for path in gone]
        append(self._folder, entries)

    def end(self, keep: int = 0) -> None:
        """The run has ended: give back the space that is reserved for its lines, but for ``keep`` bytes."""
        give_back(self._folder, keep)

    @property
    def _exists(self) -> bool:
        return os.path.lexists(self._folder / CHECKSUMS)

    def _make_sure(self, name: str, at: str | None = None) -> None:
        """Make the last line of the file ``name`` that of its content, if an earlier write ended between the two."""
        lines = Checksums.read(self._folder).by_path.get(name, [])[-2:]
        if not lines:
            return
        try:
            found: tuple[str | None, int] = of_file(self._folder, name)
        except FileNotFoundError:
            found = None, 0
        known = [(entry.sha256, entry.size) for entry in lines]
        if found != known[-1] and (found in known or (found[0] is None and len(known) == 1)):
            append(self._folder, [Entry(name, *found, at or now())])

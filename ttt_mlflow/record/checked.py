"""A record as it was written: each file is compared with its checksum when it is read, and read at most once."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.checksums import Checksums, of_data, of_file
from ttt_mlflow.record.files import read_inside
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.verify import ARTIFACTS, missing_checksums

ATTEMPTS = 3  # a run that goes on may write a file twice between the reading of it and that of its line


class CheckedJournal(Journal):
    """A journal for reading. Later changes are not seen."""

    @cached_property
    def _read(self) -> dict[str, dict[str, Any]]:
        return {}

    @cached_property
    def _checked(self) -> dict[str, Path | None]:
        return {}

    @cached_property
    def _checksums(self) -> Checksums:
        found = Checksums.read(self.path)
        if found.faults:
            raise DamagedRecord(f"{self.path}/{found.faults[0]}")
        return found

    @property
    def status(self) -> dict[str, Any]:
        new = "status.json" not in self._read
        status = super().status
        if new and (fault := missing_checksums(self.path, status)):
            raise DamagedRecord(f"{self.path}/{fault}")
        return status

    def artifact_file(self, name: str) -> Path | None:
        if name not in self._checked:
            path = super().artifact_file(name)

            def checksum() -> tuple[str, int] | None:
                try:
                    return of_file(self.path, f"{ARTIFACTS}/{name}")
                except FileNotFoundError:
                    return None

            self._compare(f"{ARTIFACTS}/{name}", checksum)
            self._checked[name] = path
        return self._checked[name]

    def _read_json(self, name: str) -> dict[str, Any]:
        if name not in self._read:
            self._read[name] = super()._read_json(name)
        return self._read[name]

    def _read_bytes(self, folder: Path, name: str) -> bytes:
        data: bytes | None = None

        def checksum() -> tuple[str, int] | None:
            nonlocal data
            try:
                data = read_inside(folder, name)
            except FileNotFoundError:
                return None
            return of_data(data)

        self._compare(name, checksum)
        if data is None:
            raise FileNotFoundError(folder / name)
        return data

    def _compare(self, name: str, checksum: Callable[[], tuple[str, int] | None]) -> None:
        """Raise DamagedRecord if a file that has lines is not what one of the last two says."""
        for _ in range(ATTEMPTS):
            found = checksum()
            if self._checksums.allows(name, found):
                return
            del self._checksums  # read again: the run may have written the file since
        what = "missing" if found is None else "not what was written; its checksum is another"
        raise DamagedRecord(f"{self.path}/{name}: {what}")

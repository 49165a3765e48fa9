"""Reads the record of one run on disk (:mod:`ttt_mlflow.record.journal` says what it has), and checks what it reads.

DamagedRecord says what is not as a run wrote it. No link in a record is followed.
"""

import os
import re
import shlex
from pathlib import Path
from typing import Any, Self

from ttt_mlflow.config import CONFIGURATIONS, Configuration, RunConfig
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.names import Point
from ttt_mlflow.record.checksums import Checksums, Entry
from ttt_mlflow.record.files import obstacle, open_inside, read_inside, walk
from ttt_mlflow.record.json_files import CONFIG, read_json
from ttt_mlflow.record.verify import ARTIFACTS, faults_of, read_description

JOURNAL_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")


class JournalReader:
    """The folder of one run, for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """The journal in the folder ``path``.

        Raises :class:`BadInput` if it is not a journal, and :class:`DamagedRecord` if its status cannot be read.
        """
        journal = cls(Path(path).absolute())
        if not is_record(journal.path):
            raise BadInput(f"{path}: not the record of a run (it has no status.json); give the folder of one")
        _ = journal.status
        return journal

    @property
    def journal_id(self) -> str:
        return self.path.name

    @property
    def artifacts(self) -> Path:
        return self.path / ARTIFACTS

    @property
    def status(self) -> dict[str, Any]:
        status = self._read_json("status.json")
        if not status:
            raise DamagedRecord(f"{self.path}/status.json: missing")
        return status

    @property
    def config(self) -> dict[str, Any]:
        """``entry_point``, ``asked`` and ``used``. ``used`` is empty until the run has chosen all values."""
        return {"entry_point": RunConfig.entry_point, "asked": {}, "used": {}} | self._read_json(CONFIG)

    @property
    def entry_point(self) -> str:
        """What was measured: ``main`` (a decode or prefill configuration) or ``micro`` (kernels)."""
        return str(self.config["entry_point"])

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as used, or as given if the run ended before it chose all values."""
        config = self.config
        return {**config["asked"], **config["used"]}

    @property
    def run_name(self) -> str:
        """For example ``ttt-1b mlp_2_dual_triton b1024 g2048``."""
        return self.configuration().run_name

    def configuration(self) -> Configuration:
        """The settings of this version's configuration. Raises :class:`DamagedRecord` if it cannot read them."""
        kind = CONFIGURATIONS.get(self.entry_point)
        if kind is None:
            known = ", ".join(CONFIGURATIONS)
            raise DamagedRecord(f"{self.path}: a record of {self.entry_point!r}; this version reads {known}")
        settings = {name: value for name, value in self.settings.items() if name in kind.model_fields}
        try:
            return kind.parse(settings)
        except BadInput as error:
            fault = " ".join(str(error).split())[:300]
            raise DamagedRecord(f"{self.path}/{CONFIG}: this version cannot read it ({fault})") from None

    @property
    def params(self) -> dict[str, str]:
        return self._read_json("params.json")

    @property
    def metrics(self) -> dict[str, float]:
        return self._read_json("metrics.json")

    @property
    def tags(self) -> dict[str, str]:
        return self._read_json("tags.json")

    @property
    def series(self) -> dict[str, list[Point]]:
        """Metric name -> rows of (timestamp in ms, step, value)."""
        stored = self._read_json("series.json")
        return {name: [(when, step, value) for when, step, value in rows] for name, rows in stored.items()}

    @property
    def description(self) -> str:
        return read_description(self.path)

    @property
    def target(self) -> dict[str, str | None]:
        """Where the run is to be published; empty if no target was noted."""
        return self._read_json("target.json")

    @property
    def published(self) -> dict[str, str]:
        """Where the run was published completely; empty if it was not."""
        return self._read_json("published.json")

    @property
    def uploaded(self) -> dict[str, Any]:
        """Which artifacts are on the server, with their checksums: ``run_id`` and ``files``. Empty if none was sent."""
        return self._read_json("uploaded.json")

    def entered(self) -> dict[str, Entry]:
        """What each file held when it was complete, by its path in the record. Empty for a record of version 0.1."""
        return Checksums.read(self.path).last

    def artifact_files(self) -> list[str]:
        """The names of all artifacts. Raises :class:`DamagedRecord` for a link among them, which is not followed."""
        found = []
        for path, entry in walk(self.path, ARTIFACTS):
            if not entry.is_file(follow_symlinks=False):
                raise DamagedRecord(f"{self.path}/{path}: {obstacle(self.path, path)}")
            found.append(path.removeprefix(f"{ARTIFACTS}/"))
        return found

    def artifact_file(self, name: str) -> Path | None:
        """The file of the artifact ``name``; None if there is none.

        Raises :class:`DamagedRecord` if the name leads out of the record, or if there is a link or a folder.
        """
        path = f"{ARTIFACTS}/{name}"
        try:
            os.close(open_inside(self.path, path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedRecord(f"{self.path}/{path}: cannot be read ({error.strerror})") from None
        return self.path / path

    def faults(self, thorough: bool = True) -> list[str]:
        """How the record on disk differs from what was written, one line each; empty if it is whole.

        thorough: artifacts are read, and not only compared by their size.
        """
        return faults_of(self.path, thorough)

    def check(self) -> None:
        """Raise :class:`DamagedRecord` if the record is not whole."""
        if faults := self.faults():
            more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
            shown = f"`ttt-mlflow record verify {shlex.quote(str(self.path))}` shows all"
            raise DamagedRecord(f"{self.path}: damaged: {faults[0]}{more}; {shown}")

    def _read_json(self, name: str) -> dict[str, Any]:
        """The object in one of the record's own files; empty if there is no such file."""
        return read_json(self.path, name, self._read_bytes)

    def _read_bytes(self, folder: Path, name: str) -> bytes:
        return read_inside(folder, name)


def is_record(folder: Path) -> bool:
    """Whether the folder is a record, whole or not. One whose process ended before it wrote a status is none."""
    if os.path.lexists(folder / "status.json"):
        return True
    try:
        written = [entry.path for entry in Checksums.read(folder).entries]
    except DamagedRecord:
        return True
    return "status.json" in written[:-1]  # it was there, and more was written since

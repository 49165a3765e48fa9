"""Finds the records in a folder, and sets the damaged ones aside."""

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.journal_reader import JOURNAL_ID, is_record


@dataclass(frozen=True)
class Damaged:
    """A record that was set aside. path: its folder. reason: what is wrong with it."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """One line that names the record."""
        return self.reason if str(self.path) in self.reason else f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Found:
    """The records of a folder. journals: the oldest first; of these the status was read, and nothing else yet."""

    journals: list[Journal] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)


def find_journals(root: Path | str) -> Found:
    """The journals directly in ``root``, or ``root`` itself if it is one. Raises BadInput if ``root`` is no folder."""
    folders, damaged = record_folders(root)
    found = Found(damaged=damaged)
    for path in folders:
        try:
            found.journals.append(Journal.open(path))
        except DamagedRecord as error:
            found.damaged.append(Damaged(path, str(error)))
    found.journals.sort(key=lambda journal: when(journal.status["started_at"]))
    return found


def record_folders(root: Path | str) -> tuple[list[Path], list[Damaged]]:
    """The folders of the records directly in ``root``, or ``root`` itself, by name; and what is a link in ``root``.

    Raises BadInput if ``root`` is no folder.
    """
    if not Path(root).is_dir():
        raise BadInput(f"{root}: no such folder; give a folder of records")
    root = Path(root).absolute()
    if is_record(root):
        return [root], []
    try:
        names = sorted(name for name in os.listdir(root) if JOURNAL_ID.fullmatch(name))
    except OSError as error:
        raise BadInput(f"{root}: cannot be read ({error.strerror}); choose a folder that you may read") from None
    found = [root / name for name in names if is_record(root / name)]
    links = [path for path in found if path.is_symlink()]
    aside = [Damaged(path, "a link; name it itself to use the record that it leads to") for path in links]
    return [path for path in found if path not in links], aside


def when(iso: str) -> datetime:
    """A time of a record. One without a zone is this machine's."""
    time = datetime.fromisoformat(iso)
    return time if time.tzinfo else time.astimezone()

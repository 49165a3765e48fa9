"""Carries out `record prune`: removes the records that MLflow has, after it was asked whether it has them."""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow.app.arguments import age
from ttt_mlflow.app.output import print_error, print_text
from ttt_mlflow.app.record_commands import progress, size_text
from ttt_mlflow.config import DEFAULT_LOGDIR
from ttt_mlflow.errors import DamagedRecord, PublishFailed
from ttt_mlflow.record.files import size_of
from ttt_mlflow.record.finding import record_folders
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.journal_reader import JOURNAL_ID
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.text import printable

if TYPE_CHECKING:
    from ttt_mlflow.tracking.still_there import Stores

OLDER_THAN = "30d"
REMAINS = DamagedRecord.exit_code
BEING_REMOVED = ".removed-"  # no id begins like this, so what a killed prune leaves is no record


@dataclass(frozen=True)
class Asked:
    """What to remove. unpublished, damaged: also these, without asking a store."""

    folder: str | None = None
    older_than: str = OLDER_THAN
    tracking_uri: str | None = None
    unpublished: bool = False
    damaged: bool = False
    dry_run: bool = False


class Kept(Exception):
    """Why a record stays. kind: what it is counted as. is_fault: whether a person should look at it."""

    def __init__(self, kind: str, reason: str = "", is_fault: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.is_fault = kind, is_fault


def prune(asked: Asked) -> int:
    """Remove, and print what is freed. Returns 4 if something should have been removed and could not be.

    Raises BadInput for an unknown time and for a folder that does not exist.
    """
    from ttt_mlflow.tracking.still_there import open_stores

    before = datetime.now().astimezone() - age("older_than", asked.older_than)
    root = Path(asked.folder or DEFAULT_LOGDIR)
    folders, links = record_folders(root)
    kept, freed, faults = Counter[str](links=len(links)), [], 0
    if not asked.dry_run:
        _remove_leftovers(root)
    with open_stores() as stores, progress(len(folders)) as step:
        for path in step(folders):
            try:
                freed.append(_prune_one(path, asked, before, stores))
            except Kept as why:
                kept[why.kind] += 1
                faults += why.is_fault
                if why.is_fault:
                    print_error(f"Error: {path.name}: kept: {printable(str(why))}")
                continue
            print_text(f"{path.name}: {'would be removed' if asked.dry_run else 'removed'}, {size_text(freed[-1])}")
    left = ", ".join(f"{count:,} {kind}" for kind, count in kept.items() if count)
    would = "Would free" if asked.dry_run else "Freed"
    print_text(f"{would} {size_text(sum(freed))} of {len(freed):,} records. Kept: {left or 'none'}.")
    return REMAINS if faults else 0


def _prune_one(path: Path, asked: Asked, before: datetime, stores: "Stores") -> int:
    """Remove one record, or see that it could be removed. Returns its size. Raises Kept if it is to stay."""
    if _began(path) > before:
        raise Kept(f"newer than {asked.older_than}")
    journal = Journal(path)
    try:
        if journal.status["status"] == "running" and not journal.abandoned:
            raise Kept("running")
        if faults := journal.faults():
            raise DamagedRecord(f"damaged: {faults[0]}")
        if not asked.unpublished or journal.published:
            _refuse_unless_there(journal, asked, stores)
    except DamagedRecord as error:
        if not asked.damaged:
            raise Kept("damaged", f"{error}; --damaged removes it", is_fault=True) from None
    size = size_of(path)
    if not asked.dry_run:
        _remove(journal)
    return size


def _refuse_unless_there(journal: Journal, asked: Asked, stores: "Stores") -> None:
    """Raise Kept unless the store that a person named, or the SQLite file that the record names, has all of it."""
    published = journal.published
    if not published:
        raise Kept("unpublished")
    uri = asked.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _own_file(published["tracking_uri"])
    if uri is None:
        place = without_secrets(published["tracking_uri"])
        raise Kept("not asked for", f"published to {place}; ask there with --tracking-uri {place}", is_fault=True)
    if missing := stores.lacks(uri, journal, published["run_id"]):
        raise Kept("not whole in MLflow", f"{without_secrets(uri)} {missing}", is_fault=True)


def _own_file(uri: str) -> str | None:
    """The URI if it is that of an SQLite file here. A record does not choose a server, which would get credentials."""
    path = uri.removeprefix("sqlite:///")
    return uri if path != uri and Path(path).is_absolute() and Path(path).is_file() else None


def _began(path: Path) -> datetime:
    """When the record began, by its id; else, for a folder that was renamed, when it was changed last."""
    if JOURNAL_ID.fullmatch(path.name):
        try:
            return datetime.strptime(path.name[:15], "%Y%m%d-%H%M%S").astimezone()
        except (ValueError, OverflowError):
            pass  # no date
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone()


def _remove(journal: Journal) -> None:
    """Remove a record. Whatever moment this ends at: there is the whole record, or none."""
    try:
        with journal.publishing():
            gone = journal.path.rename(journal.path.parent / f"{BEING_REMOVED}{journal.path.name}")
    except PublishFailed:
        raise Kept("being published") from None
    except (OSError, DamagedRecord) as error:
        raise Kept("not removable", str(error), is_fault=True) from None
    shutil.rmtree(gone, ignore_errors=True)


def _remove_leftovers(root: Path) -> None:
    for path in root.glob(f"{BEING_REMOVED}*"):
        shutil.rmtree(path, ignore_errors=True)

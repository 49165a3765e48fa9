"""Publishes the journals that are not in MLflow yet, after a server was unreachable or a process was killed.

A record may come from elsewhere. So it does not choose where the user's credentials go: a server is taken from the
command line or the environment alone.
"""

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

from ttt_mlflow import names
from ttt_mlflow.errors import BadInput, BeingPublished, DamagedRecord, NotAllowed, PublishFailed
from ttt_mlflow.record.finding import Damaged, find_journals
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.later import sync_command
from ttt_mlflow.tracking.own_run import is_own, known_run, runs_with_ids
from ttt_mlflow.tracking.publish import How, PublishedRun, mark_if_best, publish
from ttt_mlflow.tracking.refusal import Refusal
from ttt_mlflow.tracking.refused import end_damaged
from ttt_mlflow.tracking.run_values import tags_of
from ttt_mlflow.tracking.store import (
    PATIENCE,
    QUIET,
    check_tracking,
    explain,
    known_errors,
    quiet_loggers,
    resolve_destination,
    settings,
)
from ttt_mlflow.tracking.views import prepare_if_new

if TYPE_CHECKING:
    from mlflow.entities import Run

Destination = tuple[str, str | None, str | None]
Outcome = Literal[
    "published", "already published", "still running", "being published", "no destination", "damaged", "failed"
]
REMAINS = ("no destination", "damaged", "failed")  # what is not in MLflow, and that nobody is bringing there
RUN_ID = re.compile(r"[0-9a-f]{32}")
IDS_PER_SEARCH = 250  # a server reads the runs whole, which takes a while
TABLES = {"experiments", "runs", "metrics", "params", "tags"}  # of MLflow's database


@dataclass(frozen=True)
class SyncResult:
    """The outcome of ``sync`` for one journal. ``message``: why it remains, in one line.

    notes: what else to tell, once.
    """

    journal: Journal
    outcome: Outcome
    run: PublishedRun | None = None
    message: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def remains(self) -> bool:
        return self.outcome in REMAINS


class Refused(BadInput):
    """The server does not know who asks."""


Tell = Callable[[SyncResult, int, int], None]  # a result, how many there are by now, and how many there will be


def sync(
    path: Path | str,
    tracking_uri: str | None = None,
    verify: bool = False,
    tell: Tell = lambda result, number, count: None,
) -> list[SyncResult]:
    """Publish the journal at ``path``, or the journals in it, the oldest first. Abandoned ones are published as killed.

    The destination is ``tracking_uri``, else MLFLOW_TRACKING_URI, else the SQLite file that the journal names, if it
    exists. A journal that was published is published again only to an explicit, different store. verify: read back
    what is in MLflow, also what was published before, and send again what differs.

    Raises :class:`BadInput` if ``path`` is not a folder, and if the server does not know who asks.
    """
    found = find_journals(path)
    named = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    one_by_one = _Sync(resolve_destination(named) if named else None, tracking_uri is not None, verify)
    if not verify:
        one_by_one.look_up(found.journals)
    one_by_one.count_configurations(found.journals)
    results: list[SyncResult] = []
    ones: list[Journal | Damaged] = [*found.journals, *found.damaged]
    for one in ones:
        if isinstance(one, Journal):
            results.append(one_by_one.marked(one_by_one.publish(one)))
        else:
            results.append(one_by_one.set_aside(one))
        tell(results[-1], len(results), len(ones))
    return results


class _Sync:
    """What one ``sync`` knows. uri: the store that a person named. is_explicit: on the command line."""

    def __init__(self, uri: str | None, is_explicit: bool, verify: bool) -> None:
        self.uri, self.is_explicit, self.verify = uri, is_explicit, verify
        self.unreachable: dict[str, str | None] = {}  # each store is checked once, not once for each journal
        self.known: dict[str, Run] = {}  # what one search found, by id
        self.prepared: set[tuple[str, str]] = set()  # store and experiment
        self.refused: dict[Destination, str] = {}  # where this person may not write, and what the server said
        self.told_notes: set[str] = set()
        self.configuration: dict[Path, str] = {}  # of the record at each path
        self.ahead: Counter[str] = Counter()  # how many records of each configuration may still be published
        self.to_mark: dict[str, dict[tuple[str, str], dict[str, str]]] = {}  # by configuration; store, experiment: tags

    def look_up(self, journals: Sequence[Journal]) -> None:
        """Ask an explicit store for the runs of many published records at once. What it lacks is asked for again."""
        published = [one for one in map(_published, journals) if one and self._may_be_elsewhere(one)]
        ids = [one["run_id"] for one in published if RUN_ID.fullmatch(one["run_id"])]
        experiments = {one["experiment_id"] for one in published if str(one["experiment_id"]).isdecimal()}
        if len(ids) < 2 or self.uri is None or self._unreachable(self.uri):
            return
        with settings(QUIET), settings(PATIENCE):
            from mlflow import MlflowClient

            for first in range(0, len(ids), IDS_PER_SEARCH):
                with suppress(*known_errors()), quiet_loggers():  # each record is asked for then
                    some = ids[first : first + IDS_PER_SEARCH]
                    self.known |= runs_with_ids(MlflowClient(self.uri), some, sorted(experiments))

    def _may_be_elsewhere(self, published: Mapping[str, str]) -> bool:
        return self.is_explicit and self.uri is not None and published["tracking_uri"] != without_secrets(self.uri)

    def publish(self, journal: Journal) -> SyncResult:
        try:
            if not self.verify and journal.published and self._is_there(journal):
                return SyncResult(journal, "already published", notes=self._elsewhere(journal))
            if journal.status["status"] == "running" and not journal.abandoned:
                return SyncResult(journal, "still running")
            uri = self.uri or own_store(journal)
            if uri is None:
                journal.check()
                return SyncResult(journal, "no destination", message=_no_destination(journal))
            if reason := self._unreachable(uri):
                if isinstance(reason, Refusal):  # all other records would be refused too
                    raise Refused(f"tracking_uri={without_secrets(uri)}: {reason}")
                journal.check()
                return SyncResult(journal, "failed", message=f"{without_secrets(uri)}: {reason}")
            destination = _destination(journal, uri)
            if said := self.refused.get(destination):
                journal.check()
                return SyncResult(journal, "failed", message=f"{without_secrets(uri)}: {said}")
            try:
                how = How(self.verify, self.uri is not None, is_reached=True, prepares_ui=False)
                run = self._prepared(publish(journal, uri, how=how), uri, journal)
            except NotAllowed:
                self.refused[destination] = "refused as before, with a record of the same experiment"
                raise
            except PublishFailed:
                self.unreachable.pop(uri)  # it may be gone since
                raise
            return SyncResult(journal, "published", run)
        except Refused:
            raise
        except BeingPublished as error:
            return SyncResult(journal, "being published", message=str(error))
        except DamagedRecord as error:
            return SyncResult(journal, "damaged", message=str(error))
        except (PublishFailed, BadInput, OSError) as error:
            return SyncResult(journal, "failed", message=str(error))

    def _prepared(self, run: PublishedRun, uri: str, journal: Journal) -> PublishedRun:
        """Prepare the UI of an experiment once, and note which configuration's best run is to be marked at the end."""
        tags = tags_of(journal)
        key = uri, run.experiment_id
        if tags.get(names.TAG_VERDICT.name) == "valid":
            self.to_mark.setdefault(tags.get(names.TAG_CONFIG_ID.name, ""), {})[key] = tags
        if key in self.prepared:
            return run
        self.prepared.add(key)
        with settings(QUIET), settings(PATIENCE), quiet_loggers():
            from mlflow import MlflowClient

            has_views, notes = prepare_if_new(MlflowClient(uri), run.experiment_id)
        return replace(run, has_views=has_views, notes=notes)

    def count_configurations(self, journals: Sequence[Journal]) -> None:
        """Note of which configuration each record is, as far as can be told, and how many records each has."""
        for journal in journals:
            with suppress(DamagedRecord, OSError):  # told when it is the record's turn
                self.configuration[journal.path] = tags_of(journal).get(names.TAG_CONFIG_ID.name, "")
        self.ahead.update(self.configuration.values())

    def marked(self, result: SyncResult) -> SyncResult:
        """Mark the best run of a configuration after its last record. Returns ``result`` with what is to be told.

        Once is enough: it takes a search. A sync that is stopped leaves what is unmarked with a record for the next.
        """
        config_id = self.configuration.get(result.journal.path, "")
        self.ahead[config_id] -= 1
        if self.ahead[config_id] > 0 or config_id not in self.to_mark:
            return result
        notes: tuple[str, ...] = ()
        with settings(QUIET), settings(PATIENCE):
            from mlflow import MlflowClient

            for (uri, experiment_id), tags in self.to_mark.pop(config_id).items():
                with quiet_loggers():
                    notes += mark_if_best(MlflowClient(uri), experiment_id, tags)
        self.told_notes, notes = self.told_notes | set(notes), tuple(set(notes) - self.told_notes)
        return replace(result, notes=(*result.notes, *notes))

    def set_aside(self, damaged: Damaged) -> SyncResult:
        """A record of which not even the status can be read."""
        journal = Journal(damaged.path)
        if self.uri and not journal.path.is_symlink() and not self._unreachable(self.uri):
            end_damaged(journal, self.uri, None, DamagedRecord(str(damaged)))
        return SyncResult(journal, "damaged", message=str(damaged))

    def _unreachable(self, uri: str) -> str | None:
        if uri not in self.unreachable:
            self.unreachable[uri] = check_tracking(uri)
        return self.unreachable[uri]

    def _elsewhere(self, journal: Journal) -> tuple[str, ...]:
        """What to tell, once, of a record that is in another store than the one that the environment names."""
        if self.is_explicit or self.uri is None or journal.published["tracking_uri"] == without_secrets(self.uri):
            return ()
        note = (
            f"Note: MLFLOW_TRACKING_URI names {without_secrets(self.uri)}; what was published elsewhere before stays "
            "there alone, unless --tracking-uri names that store"
        )
        told, self.told_notes = note in self.told_notes, self.told_notes | {note}
        return () if told else (note,)

    def _is_there(self, journal: Journal) -> bool:
        """Whether a published journal need not be published again. Only an explicit store can be another one.

        The same server may have another name now. It is asked for the run.
        """
        published = journal.published
        if self.uri is None or not self._may_be_elsewhere(published):
            return True
        if self._unreachable(self.uri):
            return False
        found = self.known.get(published["run_id"])
        if found is not None:
            return is_own(journal, found) and found.info.status != "RUNNING"
        with settings(QUIET), settings(PATIENCE):
            from mlflow import MlflowClient

            try:
                with quiet_loggers():
                    run = known_run(MlflowClient(self.uri), journal, published["run_id"])
            except known_errors() as error:
                raise PublishFailed(f"{without_secrets(self.uri)}: {explain(error)}") from error
        return run is not None and run.info.status != "RUNNING"


def _destination(journal: Journal, uri: str) -> Destination:
    """The store, and what the record says about its experiment there."""
    target = journal.target
    return uri, target.get("experiment_name"), target.get("experiment_id")


def _published(journal: Journal) -> dict[str, str] | None:
    """Where the record was published; None for one that cannot be read, which is told when it is its turn."""
    try:
        return journal.published or None
    except DamagedRecord:
        return None


def own_store(journal: Journal) -> str | None:
    """The SQLite file that the journal names, if it exists and is MLflow's. A person need not name that one again."""
    uri = journal.target.get("tracking_uri") or ""
    path = Path(uri.removeprefix("sqlite:///"))
    is_plain = uri.startswith("sqlite:///") and path.is_absolute() and not set(uri) & set("?%")
    return uri if is_plain and _is_mlflows(path) else None


def _is_mlflows(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error:
        return False
    return {name for (name,) in found} >= TABLES


def _no_destination(journal: Journal) -> str:
    uri = journal.target.get("tracking_uri") or ""
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file"):  # a folder, which is no store
        return f"it names no store; publish it with: {sync_command(journal.path, 'URI')}"
    missing = scheme.partition("+")[0] == "sqlite"
    why = "which is not there" if missing else "and a record alone does not choose where credentials go"
    return f"it names {without_secrets(uri)}, {why}; publish it with: {sync_command(journal.path, uri)}"

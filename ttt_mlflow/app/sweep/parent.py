"""The parent run of a sweep: its record, with which a resumption goes on, and what it shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ttt_mlflow import names
from ttt_mlflow.app.sweep.board import Board
from ttt_mlflow.app.sweep.measured import LocalRecords
from ttt_mlflow.app.sweep.publication import adopt
from ttt_mlflow.config import SweepConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.locks import locked
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.own_run import named_experiment, note_target
from ttt_mlflow.tracking.run_values import record_id
from ttt_mlflow.tracking.store import DEFAULT_EXPERIMENT
from ttt_mlflow.tracking.sweeps import SweepRuns


@contextmanager
def alone(logdir: Path, sweep_id: str) -> Iterator[None]:
    """Keep other processes from measuring the same sweep into ``logdir``. Raises BadInput if one does."""
    path = logdir / f".sweep-{sweep_id}.lock"
    try:
        logdir.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        todo = "choose a folder that you may write to"
        raise BadInput(f"logdir={logdir}: not writable ({error.strerror}); {todo}") from None
    with file:
        try:
            with locked(path, file.fileno(), wait=False):
                yield
        except BlockingIOError:
            raise BadInput(f"logdir={logdir}: another process is measuring this sweep; wait for it") from None


@dataclass(frozen=True)
class Place:
    """Where the sweep is to be published: the store, and the experiment as it was asked for."""

    tracking_uri: str
    experiment_name: str | None

    def owns(self, record: Journal) -> bool:
        """Whether a record is to be published there, as far as its target tells."""
        target = record.target
        name, experiment_id = named_experiment(self.experiment_name)
        if not name and experiment_id:
            same = target.get("experiment_id") == experiment_id
        else:
            same = target.get("experiment_name") == (name or DEFAULT_EXPERIMENT)
        return same and target.get("tracking_uri") == without_secrets(self.tracking_uri)


def find_parent(local: LocalRecords, stored: SweepRuns | None, place: Place, answers: bool) -> Journal | None:
    """The record of the sweep's parent on this disk, the first; None if there is none.

    answers: whether the store was asked, and ``stored`` is what it has.
    """
    lost = [one for one in local.parents if not one.target.get("run_id") and place.owns(one)]
    if stored:
        copies = [one for one in local.parents if record_id(one) == stored.journal_id]
        return next(iter([*copies, *lost]), None)
    if answers:  # what was on the server has been deleted there
        return next(iter(lost), None)
    return next((one for one in local.parents if place.owns(one)), None)


def open_parent(
    logdir: Path, config: SweepConfig, sweep_id: str, found: Journal | None, stored: SweepRuns | None, place: Place
) -> Journal:
    """The record of the parent, with which this process goes on. Raises BadInput if ``logdir`` is not writable.

    stored: the parent that the store has already. Then this record becomes a copy of that parent's, with the same id.
    """
    asked = config.model_dump(mode="json")
    record = found or Journal.create(logdir, asked, SweepConfig.entry_point)
    if found:
        record.reopen()
    else:
        record.set_used(asked)
        record.update_params(config.model_dump(exclude_none=True))
    identity = {names.TAG_JOURNAL_ID: record_id(record)}
    record.update_tags({names.TAG_KIND: config.kind, names.TAG_SWEEP_ID: sweep_id, **identity})
    note_target(record, place.tracking_uri, None, place.experiment_name)
    if stored:
        adopt(record, stored)
    return record


def children_of(parent: Journal | None, local: LocalRecords, stored: SweepRuns | None) -> list[Journal]:
    """The records of the parent's children on this disk.

    Those of a parent that was never on a server, because it was lost when that one began, are the parent's too.
    """
    ids = {stored.journal_id} if stored else set()
    if parent:
        ids |= {record_id(parent), parent.journal_id}
        ids |= {one.journal_id for one in local.parents if not one.target.get("run_id")}
    return [one for one in local.children if one.tags.get(names.TAG_PARENT_JOURNAL_ID.name) in ids]


def show_in(parent: Journal, board: Board, more: str | None = None) -> None:
    """Write the table and the file of the cells into the parent's record."""
    parent.set_description(board.markdown(more))
    parent.write_artifact(names.ARTIFACT_SWEEP, board.file().text())


def end_parent(parent: Journal, status: str, message: str | None, exit_code: int) -> None:
    parent.update_tags({names.TAG_STATUS: status} | ({names.TAG_MESSAGE: message} if message else {}))
    parent.set_status(status, message, exit_code)

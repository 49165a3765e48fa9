"""Finds a run by what people call it: its record's folder or id, or the id of its MLflow run."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import JOURNAL_ID, Journal
from ttt_mlflow.tracking.store import client_for_reading, explain, known_errors, without_password

MLFLOW_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class FoundRun:
    """A run's name, id and GPU in one line, and the folder of its artifacts that was asked for, which may be absent."""

    label: str
    folder: Path


@contextmanager
def found_run(run: str, logdir: Path, tracking_uri: str, artifacts: str) -> Iterator[FoundRun]:
    """The run that ``run`` names, with the folder ``artifacts`` of its artifacts on this disk until the block ends.

    Raises :class:`BadInput`, which says what can be given.
    """
    if JOURNAL_ID.fullmatch(run) and (logdir / run).is_dir():
        yield _of_journal(Journal.open(logdir / run), artifacts)
    elif Path(run).is_dir():
        yield _of_journal(Journal.open(run), artifacts)
    elif MLFLOW_RUN_ID.fullmatch(run):
        with tempfile.TemporaryDirectory() as folder:
            yield _of_mlflow(run, tracking_uri, artifacts, Path(folder))
    else:
        raise BadInput(
            f"{run}: no such run; give the folder of a record, the id of one in {logdir}, or the id of an MLflow run"
        )


def _of_journal(journal: Journal, artifacts: str) -> FoundRun:
    return FoundRun(_label(journal.run_name, journal.journal_id, journal.tags), journal.artifacts / artifacts)


def _of_mlflow(run_id: str, tracking_uri: str, artifacts: str, folder: Path) -> FoundRun:
    try:
        with client_for_reading(tracking_uri) as client:
            run = client.get_run(run_id)
            found = folder / artifacts
            if client.list_artifacts(run_id, artifacts):
                # some stores of artifacts keep the folders above it, others do not
                found = Path(client.download_artifacts(run_id, artifacts, str(folder)))
    except known_errors() as error:
        raise BadInput(f"{run_id}: not to be had from {without_password(tracking_uri)} ({explain(error)})") from None
    return FoundRun(_label(run.info.run_name or "a run", run_id, run.data.tags), found)


def _label(name: str, identity: str, tags: dict[str, str]) -> str:
    where = tags.get("ttt.gpu_name") or tags.get("ttt.host")
    return f"{name}, {identity}{f', {where}' if where else ''}"

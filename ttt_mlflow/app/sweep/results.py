"""The report at the end of a sweep, as artifacts of its parent."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from ttt_mlflow.app import report
from ttt_mlflow.app.sweep.board import Board
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun

FILES = (*report.FORMATS.values(), *report.OF_CONTEXTS.values())


def write_report(parent: Journal, board: Board, tracking_uri: str) -> str | None:
    """Write the report on the runs of ``board`` into the parent's record. Returns why that failed, or None.

    A run whose record is not on this disk is read from the store.
    """
    by_name = {PurePosixPath(one.path).name: one for form in FILES for one in form}
    try:
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            runs = list(_runs(board, tracking_uri, stack))
            if not runs:
                return None
            files = report.report_on(runs, Path(folder), sweep=board.file(), title=parent.run_name, store=tracking_uri)
            for file in files:
                parent.write_artifact(by_name[file.name], file.read_bytes())
    except (OSError, DamagedRecord, BadInput) as error:
        return " ".join(str(error).split())
    return None


def _runs(board: Board, tracking_uri: str, stack: ExitStack) -> Iterator[RecordedRun]:
    found = [one.run for one in board.states if one.run]
    for run in found:
        if run.record:
            yield LocalRun(Journal.open(run.record))
    elsewhere = [run.run_id for run in found if not run.record and run.run_id]
    if elsewhere:
        from ttt_mlflow.tracking.query import open_store

        store = stack.enter_context(open_store(tracking_uri))
        for run_id in elsewhere:
            if stored := store.run(run_id):
                yield stored

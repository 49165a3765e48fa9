"""The rows of the records in a folder of this disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import RunRow, find_records, local_row


@dataclass
class FolderRows:
    """looked_at: how many records are there. unread: a line for each record that could not be read."""

    rows: list[RunRow] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    looked_at: int = 0


def read_folder(folder: str, fits: Callable[[RunRow], bool], with_series: bool = False) -> FolderRows:
    """The rows for which ``fits``, oldest first. Raises BadInput if ``folder`` is no folder.

    with_series: their metrics also have the last value of each time series.
    """
    runs, damaged = find_records(folder)
    found = FolderRows(unread=list(map(str, damaged)), looked_at=len(runs) + len(damaged))

    def read(run: LocalRun) -> Iterator[RunRow]:
        row = local_row(run, with_series)
        if fits(row):
            _ = row.run.name  # which is shown, and which may be damaged too
            yield row

    for run in runs:
        try:
            found.rows += read(run)
        except DamagedRecord as error:
            found.unread.append(str(error))
    return found

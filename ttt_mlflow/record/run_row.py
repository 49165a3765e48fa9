"""One run as a row of a table: its values, each file of a record read at most once, and nothing parsed further."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ttt_mlflow.config import as_text
from ttt_mlflow.measurement.method import FIRST_METHOD
from ttt_mlflow.names import TAG_ENTRY_POINT, TAG_KIND, TAG_METHOD, TAG_STATUS
from ttt_mlflow.record.checked import CheckedJournal
from ttt_mlflow.record.derived import sizes
from ttt_mlflow.record.finding import Damaged, record_folders
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun, kind_of, metrics_by_now

KINDS = ("decode", "prefill", "micro")  # what a table shows unless other kinds are asked for


@dataclass(frozen=True)
class RunRow:
    """The values of one run. ``metrics`` and ``tags`` have those that its parameters determine, also in an older run.

    params: as MLflow has them, or those of the configuration as given if the run ended before it chose its values.
    """

    run: RecordedRun
    kind: str
    started_at: datetime
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def id(self) -> str:
        return self.run.id


def find_records(root: Path | str) -> tuple[list[LocalRun], list[Damaged]]:
    """The records directly in ``root``, or ``root`` itself if it is one. Their content is not read yet.

    The second list has those that cannot be used, whatever they hold. Raises BadInput if ``root`` is no folder.
    """
    folders, damaged = record_folders(root)
    return [LocalRun(CheckedJournal(path)) for path in folders], damaged


def local_row(run: LocalRun, with_series: bool = False) -> RunRow:
    """The row of a record. Raises DamagedRecord if a file of it is damaged.

    with_series: metrics also has the last value of each time series, whose file is the largest of a record. A name is
    either a metric or a series.
    """
    journal = run.journal
    status, tags = run.status, journal.tags
    params = journal.params or {name: as_text(value) for name, value in journal.settings.items()}
    metrics = run.metrics if with_series else metrics_by_now(journal)
    kind = tags.get(TAG_KIND.name) or kind_of(tags, run.entry_point, params.get("mode"))
    return _completed(run, kind, run.started_at, status, (params, metrics, tags))


def store_row(run: RecordedRun) -> RunRow | None:
    """The row of a run in a store; None for a run that another program made, which has none of this program's tags."""
    tags = run.tags
    if not any(tag.name in tags for tag in (TAG_STATUS, TAG_KIND, TAG_ENTRY_POINT)):
        return None
    return _completed(run, run.kind, run.started_at, run.status, (run.params, run.metrics, tags))


def _completed(
    run: RecordedRun,
    kind: str,
    started_at: datetime,
    status: str,
    values: tuple[Mapping[str, str], Mapping[str, float], Mapping[str, str]],
) -> RunRow:
    """The row, with the metrics and tags that version 0.1 did not record although its parameters determine them."""
    params, metrics, tags = values
    metrics = {**sizes(kind, params), **metrics}
    tags = {TAG_KIND.name: kind, TAG_METHOD.name: str(FIRST_METHOD), **tags}
    return RunRow(run, kind, started_at, status, params, metrics, tags)

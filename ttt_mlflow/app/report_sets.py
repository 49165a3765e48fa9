"""Finds the runs of a report: a folder of records, a store, or several sets that are put on top of each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.app.folder_rows import read_folder
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.app.sides import Finder, open_finder
from ttt_mlflow.app.store_rows import read_rows
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.record.checked import CheckedJournal
from ttt_mlflow.record.journal_reader import is_record
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun
from ttt_mlflow.record.run_row import KINDS, RunRow, local_row, store_row
from ttt_mlflow.record.sweep_file import SweepFile, sweep_of
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.results_grids import RunSet
from ttt_mlflow.tracking.query import open_store
from ttt_mlflow.tracking.store import resolve_tracking_uri

if TYPE_CHECKING:
    from ttt_mlflow.tracking.filters import RunFilter

SWEEP = "sweep"  # kind of a sweep's parent
LABEL_LENGTH = 32
Tell = Callable[[str], None]


@dataclass
class Found:
    """What was found. places: where, for people. store: the address of the store that was read.

    notes: what a reader of the report must know. unread: a line for each record that is damaged.
    """

    store: str
    sets: list[RunSet] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def add(self, label: str, place: str, rows: Sequence[RunRow], parents: Sequence[RecordedRun]) -> None:
        """Add a set, with a label that no other has."""
        label, labels = label[:LABEL_LENGTH], [one.label for one in self.sets]
        if label in labels:
            label = next(new for number in range(2, len(labels) + 3) if (new := f"{label} ({number})") not in labels)
        self.places.append(place)
        self.sets.append(RunSet(label, rows, self._sweeps(parents)))

    def _sweeps(self, parents: Sequence[RecordedRun]) -> list[SweepFile]:
        sweeps: list[SweepFile] = []
        for parent in parents:
            try:
                sweeps += filter(None, [sweep_of(parent)])
            except DamagedRecord as error:
                self.unread.append(str(error))
        return sweeps


def find_sets(texts: Sequence[str], where: Destination, condition: "RunFilter | None", tell: Tell) -> Found:
    """The runs that ``texts`` mean, a set each: folders of records, or what a side of a comparison can be.

    Without texts, those of the store if one is named, else those of the folder of records. Raises BadInput for what
    cannot be found.
    """
    found = Found(without_secrets(resolve_tracking_uri(where.tracking_uri)))
    folders = [text for text in texts if Path(text).is_dir()]
    of_store = bool(where.tracking_uri or where.experiment_name)
    if of_store and texts and len(folders) == len(texts):
        raise BadInput(
            f"{', '.join(texts)}: the records of a folder and the runs of a store are different runs; "
            "give either folders, or --tracking-uri or --experiment-name"
        )
    if not texts and of_store:
        _whole_store(found, where, condition, tell)
    elif not texts:
        _folder(found, where.logdir, condition)
    elif len(folders) == len(texts):
        for text in texts:
            _folder(found, text, condition)
    else:
        with open_finder(where) as finder:
            for text in texts:
                if text in folders:
                    _folder(found, text, condition)
                else:
                    _named(found, text, finder, condition)
        found.unread += map(str, finder.damaged)
    if condition:
        # nothing tells whether a cell that was not tried would have fitted
        found.sets = [RunSet(one.label, one.rows) for one in found.sets]
        found.notes.append(f"Only runs with {condition.text}. What sweeps did not try is left out.")
    return found


def _folder(found: Found, folder: str, condition: "RunFilter | None") -> None:
    """The records in a folder; or of a folder that is the record of a sweep, the sweep."""
    root = Path(folder)
    sweep: LocalRun | None = None
    if is_record(root):
        record = LocalRun(CheckedJournal.open(root))
        sweep = record if record.kind == SWEEP else None
    # a copy of a parent that is in MLflow has the id of that one, which its children name
    ids = {sweep.id, sweep.tags.get(names.TAG_JOURNAL_ID.name, sweep.id)} if sweep else set()
    parents: list[RecordedRun] = []

    def fits(row: RunRow) -> bool:
        if row.kind == SWEEP and (sweep is None or row.id == sweep.id):
            parents.append(row.run)
        wanted = row.kind in KINDS and (condition is None or condition.fits(row))
        return wanted and (not ids or row.tags.get(names.TAG_PARENT_JOURNAL_ID.name) in ids)

    read = read_folder(str(root.absolute().parent) if sweep else folder, fits)
    found.unread += read.unread
    found.add(root.absolute().name, folder, read.rows, parents)


def _whole_store(found: Found, where: Destination, condition: "RunFilter | None", tell: Tell) -> None:
    with open_store(resolve_tracking_uri(where.tracking_uri)) as store:
        experiment = where.experiment_name
        rows, _ = read_rows(store, experiment, condition, [], None, lambda read: tell(f"reading runs: {read:,}"))
        parents = store.search(f"tags.`{names.TAG_KIND.name}` = '{SWEEP}'", experiment)
        label = experiment or store.place
        found.add(label, f"{store.place}, experiment {experiment}" if experiment else store.place, rows, parents)


def _named(found: Found, text: str, finder: Finder, condition: "RunFilter | None") -> None:
    side = finder.side("runs", [text])
    rows = [row for run in side.runs if (row := _row(run)) and (condition is None or condition.fits(row))]
    label = side.parents[0].name if side.parents else text
    found.notes += [f"Left out: {line}" for line in side.left_out]
    found.add(label, side.text, rows, side.parents)


def _row(run: RecordedRun) -> RunRow | None:
    return local_row(run) if isinstance(run, LocalRun) else store_row(run)

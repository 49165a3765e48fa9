"""Carries out the commands about records themselves: list, show, verify. Prune has a module of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ttt_mlflow import names
from ttt_mlflow.app.output import print_error, print_text
from ttt_mlflow.config import DEFAULT_LOGDIR
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.record.checked import CheckedJournal
from ttt_mlflow.record.files import size_of
from ttt_mlflow.record.finding import Damaged, record_folders
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.journal_reader import JOURNAL_ID, is_record
from ttt_mlflow.record.recorded_run import LocalRun, metrics_by_now
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.text import number, printable, text_table

WHOLE, DAMAGED = "whole", "damaged"
COLUMNS = ("id", "date", "status", "name", "published", "record", "size")
NO = "no"
UNKNOWN = "?"
UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class RecordState:
    """What one record is. faults: how it differs from what was written. The texts are '?' where they cannot be read."""

    path: Path
    size: int
    faults: Sequence[str]
    name: str = UNKNOWN
    date: str = UNKNOWN
    status: str = UNKNOWN
    published: str = UNKNOWN
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def row(self) -> tuple[str, ...]:
        state = DAMAGED if self.faults else WHOLE
        return (self.id, self.date, self.status, self.name, self.published, state, size_text(self.size))


def list_records(folder: str | None) -> int:
    """Print one line for each record. Returns 4 if one is damaged."""
    root = folder or DEFAULT_LOGDIR
    folders, aside = record_folders(root)
    with progress(len(folders)) as step:
        states = [state_of(path, thorough=False) for path in step(folders)]
    states += [RecordState(one.path, 0, [one.reason]) for one in aside]
    if not states:
        print_text(f"No records in {root}.")
        return 0
    print_text(text_table(COLUMNS, [state.row for state in states], numeric=("size",)))
    print_text(f"  {len(states):,} records, {size_text(sum(state.size for state in states))}")
    for state in states:
        _tell_first(state.path, state.faults)
    return DamagedRecord.exit_code if any(state.faults for state in states) else 0


def show_record(record: str, logdir: str | None) -> int:
    """Print what is known of one record, with its files. Returns 4 if it is damaged."""
    path = folder_of(record, logdir)
    with progress(1) as step:
        (state,) = (state_of(path, thorough=True) for path in step([path]))
    lines = [("record", state.id), ("folder", str(path)), ("name", state.name), ("status", state.status)]
    lines += [*state.facts.items(), ("published", state.published), ("size", size_text(state.size))]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print_text(f"{name:<{width}}  {printable(text)}")
    for fault in state.faults:
        print_error(f"Error: {printable(fault)}")
    print_text(f"{'files':<{width}}  {DAMAGED if state.faults else 'all as they were written'}")
    return DamagedRecord.exit_code if state.faults else 0


def verify_records(paths: Sequence[str]) -> int:
    """Read each record as a whole, and print what differs from what was written. Returns 4 if anything does."""
    folders: list[Path] = []
    aside: list[Damaged] = []
    for root in paths or (DEFAULT_LOGDIR,):
        found, links = record_folders(root)
        folders += found
        aside += links
    faulty = len(aside)
    with progress(len(folders)) as step:
        for path in step(folders):
            faults = Journal(path).faults()
            faulty += bool(faults)
            if not faults:
                print_text(f"{path.name}: {WHOLE}")
            for fault in faults:
                print_error(f"Error: {printable(f'{path}: {fault}')}")
    for one in aside:
        print_error(f"Error: {one}")
    count = len(folders) + len(aside)
    print_text(f"{count - faulty:,} of {count:,} records are whole." if count else "No records there.")
    return DamagedRecord.exit_code if faulty else 0


def state_of(path: Path, thorough: bool) -> RecordState:
    """What the record in ``path`` is. thorough: all its files are read, not only its own."""
    faults = Journal(path).faults(thorough)
    size = size_of(path)
    try:
        journal = CheckedJournal.open(path)
        run = LocalRun(journal)
        status = "abandoned" if journal.abandoned else run.status
        date = f"{run.started_at.astimezone():%Y-%m-%d %H:%M}"
        known = RecordState(path, size, faults, run.name, date, status, published_at(journal), _facts(run))
    except (DamagedRecord, BadInput) as error:
        return RecordState(path, size, faults or [str(error)], published=_published_if_readable(path))
    return known


def published_at(journal: Journal) -> str:
    """Where the record was published, in words; 'no' if it was not."""
    place = journal.published
    return f"{without_secrets(place['tracking_uri'])} run {place['run_id']}" if place else NO


def folder_of(record: str, logdir: str | None) -> Path:
    """The folder of the record that is given by its folder or by its id. Raises BadInput if there is none."""
    root = Path(logdir or DEFAULT_LOGDIR)
    given = (root / record) if JOURNAL_ID.fullmatch(record) and is_record(root / record) else Path(record)
    if not is_record(given):
        raise BadInput(f"{record}: no such record; give the folder of one, or the id of one in {root}")
    return given.absolute()


def size_text(size: float) -> str:
    """Bytes for people: 1.2 MB."""
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{number(round(size, 1))} {unit}"


@contextmanager
def progress(count: int) -> Iterator[Callable[[Sequence[Path]], Iterator[Path]]]:
    """Show on a terminal how many of ``count`` records were read. Yields what is to go through them."""
    from rich.console import Console

    with Console(stderr=True).status("reading") as status:

        def step(paths: Sequence[Path]) -> Iterator[Path]:
            for done, path in enumerate(paths, 1):
                status.update(f"reading {done:,} of {count:,}: {path.name}")
                yield path

        yield step


def _tell_first(path: Path, faults: Sequence[str]) -> None:
    if faults:
        more = f" (and {len(faults) - 1} more; `ttt-mlflow record show {path.name}`)" if len(faults) > 1 else ""
        print_error(f"Error: {printable(f'{path}: {faults[0]}')}{more}")


def _published_if_readable(path: Path) -> str:
    try:
        return published_at(Journal(path))
    except DamagedRecord:
        return UNKNOWN


def _facts(run: LocalRun) -> dict[str, str]:
    """What ``show`` prints besides what ``list`` has."""
    journal, status = run.journal, run.journal.status
    process = status["process"]
    facts = {
        "message": status["message"] or "",
        "kind": run.kind,
        "began": status["started_at"],
        "ended": status["ended_at"] or "",
        "process": f"{process['pid']} on {process['host']}",
        "verdict": run.tags.get(names.TAG_VERDICT.name, ""),
    }
    metrics = metrics_by_now(journal)
    for metric in (names.DECODE_TOKENS_PER_S, names.PREFILL_TOKENS_PER_S):
        if metric.name in metrics:
            facts["throughput"] = f"{number(metrics[metric.name])} {metric.unit}"
    target = journal.target
    if target:
        facts["meant for"] = without_secrets(str(target["tracking_uri"]))
    facts["checksums"] = f"of {len(journal.entered())} files" if journal.entered() else "none: an older record"
    return {name: text for name, text in facts.items() if text}

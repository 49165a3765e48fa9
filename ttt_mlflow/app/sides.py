"""Finds the runs of one side of a comparison: by id, name, folder, parent, commit or filter, here or in a store."""

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ttt_mlflow import names
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.record.checked import CheckedJournal
from ttt_mlflow.record.finding import Damaged
from ttt_mlflow.record.journal_reader import JOURNAL_ID, is_record
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun
from ttt_mlflow.record.run_row import find_records
from ttt_mlflow.tracking import store as stores
from ttt_mlflow.tracking.query import Store, open_store

KINDS = ("decode", "prefill", "micro")  # runs that measured something; sweeps and comparisons did not
ENTRY_POINTS = (RunConfig.entry_point, MicroConfig.entry_point)
LATEST = re.compile(r"latest(?:~(\d+))?")
RUN_ID = re.compile(r"[0-9a-f]{32}")
ID_BEGINNING = re.compile(r"[0-9a-f]{4,31}")
JOURNAL_BEGINNING = re.compile(r"\d{8}(-[0-9a-f-]{0,15})?")
COMMIT = re.compile(r"[0-9a-f]{7,40}")
FILTER = re.compile(r"[=<>]|\b(like|ilike|in|is)\b", re.IGNORECASE)
MOST_SHOWN = 10
GIT_SECONDS = 10
FORMS = "a run id, a run name, the folder or id of a local record, a git commit or tag, or an MLflow filter"


@dataclass(frozen=True)
class Side:
    """The runs of one side. text: what they are, in one line. left_out: one line for each run that takes no part.

    parents: the runs whose children they are, where a parent was named.
    """

    text: str
    runs: tuple[RecordedRun, ...]
    left_out: tuple[str, ...] = ()
    parents: tuple[RecordedRun, ...] = ()


@dataclass(frozen=True)
class _Found:
    """What one text means. parent: the run whose children it means."""

    runs: Sequence[RecordedRun]
    meaning: str
    parent: RecordedRun | None = None


class Finder:
    """Finds runs in ``store`` (None: there is no store; ``no_store`` says why) and in the folder ``logdir``.

    damaged: the records that were set aside while looking.
    """

    def __init__(
        self, store: Store | None, logdir: Path, experiment_name: str | None = None, no_store: str = ""
    ) -> None:
        self._store, self._logdir, self._experiment, self._no_store = store, logdir, experiment_name, no_store
        self.damaged: list[Damaged] = []

    def side(self, name: str, texts: Sequence[str]) -> Side:
        """The runs that ``texts`` mean together. ``name``: baseline or candidate.

        Raises BadInput for a text that means no run, for one that fits several where only one is meant, and if none of
        the runs measured anything; DamagedRecord if the only run is a damaged record.
        """
        found = [self._find(name, text.strip()) for text in texts]
        runs = self._undamaged(list({run.id: run for one in found for run in one.runs}.values()))
        usable = [run for run in runs if is_ours(run) and run.kind in KINDS and run.status != "running"]
        left_out = [f"{name} {run.id}: {_why_left_out(run)}" for run in runs if run not in usable]
        if not usable:
            why = "; ".join(left_out[:MOST_SHOWN]) or "no run fits"
            raise BadInput(f"{name}={_listed(texts)}: no run that can be compared ({why}); give {FORMS}")
        meaning = ", ".join(dict.fromkeys(one.meaning for one in found))
        count = "" if len(usable) == 1 else f", {len(usable)} runs"
        parents = tuple(one.parent for one in found if one.parent)
        return Side(f"{meaning}{count}", tuple(usable), tuple(left_out), parents)

    def _find(self, name: str, text: str) -> _Found:
        if not text:
            raise BadInput(f"{name}: it is empty; give {FORMS}, or latest")
        tried: list[Callable[[str, str], _Found | None]] = [
            *(self._latest, self._by_id, self._by_name, self._record, self._by_commit, self._by_filter),
        ]
        for one in tried:
            if (found := one(name, text)) is not None:
                return found
        commit = _resolved(text)
        about = (
            f"it is the git commit {commit[:12]}, of which there is no run" if commit else "it is no run that is known"
        )
        raise BadInput(f"{name}={text}: {about} in {self._places()}; give {FORMS}, or latest")

    def _places(self) -> str:
        store = self._store.place if self._store else f"a store ({self._no_store})"
        return f"{store} or {self._logdir}"

    # The kinds of texts, in the order in which they are tried

    def _latest(self, name: str, text: str) -> _Found | None:
        """``latest`` and ``latest~1``: the newest finished runs."""
        match = LATEST.fullmatch(text)
        if not match:
            return None
        back = int(match[1] or 0)
        if self._store:
            runs: list[RecordedRun] = [*self._store.search(_finished(), self._experiment, limit=back + 1)]
        else:
            local: list[RecordedRun] = [run for run in self._local() if run.status == "ok" and run.kind in KINDS]
            runs = sorted(local, key=lambda run: run.started_at, reverse=True)[: back + 1]
        if len(runs) <= back:
            raise BadInput(
                f"{name}={text}: {self._places()} has {len(runs)} finished runs; measure one, or give {FORMS}"
            )
        return _Found([runs[back]], f"{text}: {_described(runs[back])}")

    def _by_id(self, name: str, text: str) -> _Found | None:
        if not self._store:
            return None
        if RUN_ID.fullmatch(text):
            run = self._store.run(text)
            return self._whole(run) if run else None
        conditions = []
        if ID_BEGINNING.fullmatch(text):
            conditions.append(f"attributes.run_id LIKE '{text}%'")
        if JOURNAL_BEGINNING.fullmatch(text):
            conditions.append(f"tags.`{names.TAG_JOURNAL_ID.name}` LIKE '{text}%'")
        found = [run for one in conditions for run in self._store.search(one, self._experiment, limit=MOST_SHOWN)]
        return self._only(name, text, found, "the beginning of several ids")

    def _by_name(self, name: str, text: str) -> _Found | None:
        if not self._store or ("'" in text and '"' in text):
            return None  # MLflow's filters have no way to quote both
        quoted = f'"{text}"' if "'" in text else f"'{text}'"
        found = self._store.search(f"attributes.run_name = {quoted}", self._experiment, limit=MOST_SHOWN)
        return self._only(name, text, found, "the name of several runs")

    def _only(self, name: str, text: str, found: Sequence[RecordedRun], what: str) -> _Found | None:
        if len(found) > 1:
            more = "" if len(found) < MOST_SHOWN else ", the newest of them"
            lines = "; ".join(_described(run) for run in found)
            raise BadInput(f"{name}={text}: {what}{more}; give the id of one, or a filter for all: {lines}")
        return self._whole(found[0]) if found else None

    def _whole(self, run: RecordedRun) -> _Found:
        """``run`` or, if it is a parent, all its children."""
        assert self._store is not None
        children = self._store.children(run.id)
        if children:
            return _Found(children, f"{run.name} ({run.id[:8]}), a parent", run)
        return _Found([run], _described(run))

    def _record(self, name: str, text: str) -> _Found | None:
        """The folder of a record, or the beginning of the id of one in ``logdir``."""
        if is_record(Path(text).expanduser()):
            run = LocalRun(CheckedJournal.open(Path(text).expanduser()))
            return _Found([run], _described(run))
        if not JOURNAL_BEGINNING.fullmatch(text) or not self._logdir.is_dir():
            return None
        folders = [path for path in self._logdir.glob(f"{text}*") if JOURNAL_ID.fullmatch(path.name)]
        runs = [LocalRun(CheckedJournal.open(path)) for path in sorted(folders) if is_record(path)]
        if len(runs) > 1:
            lines = "; ".join(_described(run) for run in runs[:MOST_SHOWN])
            raise BadInput(f"{name}={text}: the beginning of several records' ids; give the whole id of one: {lines}")
        return _Found(runs, _described(runs[0])) if runs else None

    def _by_commit(self, name: str, text: str) -> _Found | None:
        """All runs of a commit: of a clean checkout or, if there is none, with uncommitted changes."""
        commit = _resolved(text) or (text if COMMIT.fullmatch(text) else None)
        if commit is None:
            return None
        runs: list[RecordedRun] = []
        if self._store:
            runs = [*self._store.search(f"tags.`{names.TAG_GIT_COMMIT.name}` LIKE '{commit}%'", self._experiment)]
        if not runs:
            runs = [*(run for run in self._local() if (run.commit or "").startswith(commit))]
        runs = [run for run in runs if is_ours(run) and run.kind in KINDS]
        if not runs:
            return None
        clean = [run for run in runs if run.tags.get(names.TAG_GIT_DIRTY.name) != "true"]
        label = f"commit {commit[:12]}" + ("" if COMMIT.fullmatch(text) else f" ({text})")
        return _Found(clean or runs, label if clean else f"{label} with uncommitted changes")

    def _by_filter(self, name: str, text: str) -> _Found | None:
        if not FILTER.search(text):
            return None
        if not self._store:
            raise BadInput(f"{name}={text}: a filter needs a store, but {self._no_store}; give --tracking-uri")
        runs = [run for run in self._store.search(text, self._experiment) if is_ours(run)]
        if not runs:
            raise BadInput(
                f"{name}={text}: the filter fits no run in {self._store.place}; `ttt-mlflow table` lists them"
            )
        return _Found(runs, f"runs with {text}")

    def _local(self) -> list[LocalRun]:
        """The records in the folder of records that can be read."""
        if not self._logdir.is_dir():
            return []
        runs, damaged = find_records(self._logdir)
        self._set_aside(damaged)
        return [run for run in runs if self._is_readable(run)]

    def _is_readable(self, run: LocalRun) -> bool:
        try:
            _ = run.status, run.kind, run.started_at, run.commit, run.name
        except DamagedRecord as error:
            self._set_aside([Damaged(run.journal.path, str(error))])
            return False
        return True

    def _undamaged(self, runs: Sequence[RecordedRun]) -> list[RecordedRun]:
        """``runs`` without the records that are not what was written, which are set aside."""
        whole = []
        for run in runs:
            try:
                if isinstance(run, LocalRun):
                    run.journal.check()
                whole.append(run)
            except DamagedRecord as error:
                if len(runs) == 1:
                    raise
                self._set_aside([Damaged(Path(run.id), str(error))])
        return whole

    def _set_aside(self, damaged: Iterable[Damaged]) -> None:
        known = {one.path.name for one in self.damaged}
        self.damaged += [one for one in damaged if one.path.name not in known]


@contextmanager
def open_finder(destination: Destination) -> Iterator[Finder]:
    """Where runs are looked for. Without a store that was asked for, the local records are enough."""
    uri = stores.resolve_tracking_uri(destination.tracking_uri)
    logdir = Path(destination.logdir)
    if not destination.tracking_uri and (reason := stores.missing_database(uri)):
        yield Finder(None, logdir, destination.experiment_name, reason)
        return
    with open_store(uri) as store:
        yield Finder(store, logdir, destination.experiment_name)


def is_ours(run: RecordedRun) -> bool:
    """Whether this program recorded the run."""
    return isinstance(run, LocalRun) or bool({names.TAG_KIND.name, names.TAG_ENTRY_POINT.name} & set(run.tags))


def _finished() -> str:
    conditions = [f"tags.`{names.TAG_STATUS.name}` = 'ok'"]
    conditions += [f"tags.`{names.TAG_ENTRY_POINT.name}` != '{other}'" for other in ("compare", "sweep")]
    return " AND ".join(conditions)


def _why_left_out(run: RecordedRun) -> str:
    if not is_ours(run):
        return "a run of another program"
    if run.kind not in KINDS:
        return f"a run of kind {run.kind}, which measured nothing itself"
    return "still running"


def _described(run: RecordedRun) -> str:
    commit = run.commit
    dirty = " with changes" if run.tags.get(names.TAG_GIT_DIRTY.name) == "true" else ""
    of = f", commit {commit[:12]}{dirty}" if commit else ""
    return f"{run.id} ({run.name}, {run.started_at:%Y-%m-%d %H:%M}{of})"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)


def _resolved(text: str) -> str | None:
    """The full commit that git knows as ``text``, in the current folder or in this program's checkout."""
    if text.startswith("-") or re.search(r"\s", text):
        return None
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        command = ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", f"{text}^{{commit}}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS)
        except (OSError, subprocess.SubprocessError):
            return None
        if done.returncode == 0:
            return done.stdout.strip()
    return None

"""Ends, as killed, runs that a store shows as RUNNING although nobody works on them any more.

Three kinds of runs are ours and stuck; all others are left as they are:

- The run names its process (``ttt.process``), and that process is gone from this host.
- The run is more than an hour past the time that it may take (``ttt.alive_until``).
- ``mlflow run`` made it for this project, and was killed before our process began. It has none of our tags, but the
  entry point, at least the parameters that MLproject declares for it, no metric, and it is old. If it was killed still
  earlier, there are no parameters, and a commit of this checkout says that it is ours.

What was measured is not touched. The record of an ended run can still be published into it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ttt_mlflow import names
from ttt_mlflow.config import CONFIGURATIONS
from ttt_mlflow.record.journal import JOURNAL_ID
from ttt_mlflow.record.process import Host
from ttt_mlflow.record.recorded_run import kind_of
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.own_commits import is_our_commit
from ttt_mlflow.tracking.run_values import MLFLOW_STATUS, milliseconds
from ttt_mlflow.tracking.store import SENT_ONCE, check_tracking, clipped, explain, settings

if TYPE_CHECKING:
    from mlflow.entities import Run

    from ttt_mlflow.tracking.query import Store

OLDER_THAN = timedelta(hours=24)
PAST = timedelta(hours=1)  # after alive_until: clocks of hosts differ, and a run may take a little longer
RUNNING, KILLED = "RUNNING", "killed"
SOURCE_TYPE, ENTRY_POINT, NOTE = "mlflow.source.type", "mlflow.project.entryPoint", "mlflow.note.content"
SOURCE_NAME = "mlflow.source.name"
OURS = f"attributes.status = '{RUNNING}' and tags.`{names.TAG_JOURNAL_ID.name}` IS NOT NULL"
UNBEGUN = (
    f"attributes.status = '{RUNNING}' and tags.`{SOURCE_TYPE}` = 'PROJECT' "
    f"and tags.`{names.TAG_JOURNAL_ID.name}` IS NULL"
)
# what MLproject declares for each entry point: what has the same default on every machine
DECLARED = {
    entry_point: {name for name, field in kind.model_fields.items() if field.default is not None}
    for entry_point, kind in CONFIGURATIONS.items()
}
ENDED_KINDS = ("decode", "prefill", "micro", "compare", "sweep")
# names that many hosts have: that one of them was restarted says nothing of another
NO_NAMES = ("localhost", "localhost.localdomain", "(none)", "")
PAGE = 1000  # runs a request
EXPERIMENTS = 500  # experiments a request
ATTEMPTS = 3
NOT_ANSWERED = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")  # MLflow's codes for a lost answer and a failing server
QUICK_S = 0.5
BY_A_PUBLISHER = (names.TAG_PROCESS.name, names.TAG_ALIVE_UNTIL.name, names.TAG_RECORDED_UNTIL.name)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class RunFacts:
    """What a store says of a run, as far as it matters here. started_at: None if the store has no possible time."""

    run_id: str
    name: str
    status: str
    started_at: datetime | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    has_metrics: bool

    @property
    def journal_id(self) -> str:
        """The id of the run's record; empty if it has none."""
        return self.tags.get(names.TAG_JOURNAL_ID.name, "")


@dataclass(frozen=True)
class Here:
    """What the decision needs besides the run. older_than: how old a run without our tags must be.

    is_our_commit: whether a commit is of this project; asked of old runs without parameters alone.
    """

    now: datetime
    host: Host
    booted_at: datetime
    older_than: timedelta = OLDER_THAN
    is_our_commit: Callable[[str], bool] = is_our_commit

    @classmethod
    def and_now(cls, older_than: timedelta = OLDER_THAN) -> "Here":
        return cls(datetime.now(UTC), Host.here(), datetime.fromtimestamp(psutil.boot_time(), UTC), older_than)


@dataclass(frozen=True)
class Outcome:
    """What became of a run that was found, and why. refused: the store does not allow it."""

    outcome: Literal["ended", "left", "refused"]
    why: str


class _Process(BaseModel):
    """The process of ``ttt.process``. Whoever may write to the store can write anything there."""

    model_config = ConfigDict(strict=True, frozen=True)

    host: str
    boot_id: str = Field(min_length=1)
    pid_namespace: str = Field(min_length=1)
    pid: int = Field(gt=0)
    start_ticks: int = Field(ge=0)
    publishes: bool = False  # a record of another process


def why_stuck(run: RunFacts, here: Here) -> str | None:
    """Why ``run`` is to be ended; None if it is to be left: it may live, it has ended, or it is not ours."""
    if run.status != RUNNING:
        return None
    if JOURNAL_ID.fullmatch(run.journal_id):
        process = process_of(run)
        ended = process and has_ended(process, run.started_at, here)
        if process and ended:
            return f"its process {process.pid} on {process.host} is gone"
        return None if ended is False else _overdue(run, here)
    return _never_begun(run, here)


def waits_for_sync(run: RunFacts) -> bool:
    """Whether a publication of the run's record began and was not completed, so that the next one will end the run."""
    process = process_of(run)
    return names.TAG_RECORDED_UNTIL.name in run.tags or (process is not None and process.publishes)


def process_of(run: RunFacts) -> _Process | None:
    try:
        return _Process.model_validate_json(run.tags.get(names.TAG_PROCESS.name, ""))
    except ValidationError:
        return None


def has_ended(process: _Process, started_at: datetime | None, here: Here) -> bool | None:
    """Whether the process has ended; None if that cannot be told from here.

    Stricter than a record's own rule, because a server has runs of many hosts. Virtual machines from one snapshot share
    the boot id, and different hosts may share a name: a process that began after this host's boot is not of an earlier
    boot of this host.
    """
    if process.host != here.host.name:
        return None
    if process.boot_id != here.host.boot_id and (
        process.host in NO_NAMES or started_at is None or started_at >= here.booted_at
    ):
        return None
    return here.host.has_ended(process.model_dump())


def _overdue(run: RunFacts, here: Here) -> str | None:
    try:
        until = datetime.fromisoformat(run.tags.get(names.TAG_ALIVE_UNTIL.name, ""))
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    late = here.now - until
    return f"it was to end {in_words(late)} ago at the latest" if late > PAST else None


def _never_begun(run: RunFacts, here: Here) -> str | None:
    declared = DECLARED.get(run.tags.get(ENTRY_POINT, ""))
    if declared is None or run.tags.get(SOURCE_TYPE) != "PROJECT":
        return None
    if run.has_metrics or any(name.startswith("ttt.") for name in run.tags):
        return None
    if run.started_at is None or here.now - run.started_at < here.older_than:
        return None
    if not (_is_of_our_commit(run, here) if not run.params else declared <= run.params.keys()):
        return None
    return f"`mlflow run` made it {in_words(here.now - run.started_at)} ago, and no measurement began in it"


def _is_of_our_commit(run: RunFacts, here: Here) -> bool:
    """Whether the run's source is the root folder of this project's repository: a ``#`` names a folder below it."""
    source, commit = run.tags.get(SOURCE_NAME, ""), run.tags.get(names.TAG_GIT_COMMIT.name, "")
    return bool(source) and "#" not in source and here.is_our_commit(commit)


def in_words(length: timedelta) -> str:
    """A length of time in its largest unit: ``45 s``, ``12 min``, ``26 h``, ``9 days``."""
    seconds = max(0, int(length.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 2 * 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 3 * 86400 else f"{seconds // 86400} days"


def facts_of(run: "Run") -> RunFacts:
    try:
        started_at = datetime.fromtimestamp(run.info.start_time / 1e3, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        started_at = None
    data = run.data
    name = run.info.run_name or "a run"
    return RunFacts(run.info.run_id, name, run.info.status, started_at, data.tags, data.params, bool(data.metrics))


def experiments_of(store: "Store", name: str | None, everywhere: bool) -> list[str]:
    """The ids of the experiments to look in: ``everywhere``, or as :meth:`Store.experiments` says."""
    if not everywhere:
        return store.experiments(name)
    found: list[str] = []
    token = None
    while True:
        page = store.client.search_experiments(page_token=token)
        found += [str(experiment.experiment_id) for experiment in page]
        token = page.token
        if not token:
            return found


def find_stuck(
    store: "Store", experiments: Sequence[str], here: Here, progress: Progress
) -> list[tuple[RunFacts, str]]:
    """The stuck runs of the experiments, each with why it is stuck.

    All are found before the first is ended: a store counts pages from the first run that still fits.
    """
    oldest = int((here.now - min(here.older_than, timedelta(days=36500))).timestamp() * 1000)
    found = []
    for condition in (OURS, f"{UNBEGUN} and attributes.start_time <= {max(0, oldest)}"):
        for run in _each(store, experiments, condition, progress):
            if reason := why_stuck(run, here):
                found.append((run, reason))
    return found


def _each(store: "Store", experiments: Sequence[str], condition: str, progress: Progress) -> Iterator[RunFacts]:
    looked_at = 0
    for first in range(0, len(experiments), EXPERIMENTS):
        token = None
        while True:
            ids = list(experiments[first : first + EXPERIMENTS])
            page = store.client.search_runs(ids, condition, max_results=PAGE, page_token=token)
            yield from map(facts_of, page)
            looked_at += len(page)
            progress(f"{looked_at} running runs read")
            token = page.token
            if not token:
                break


def end_run(store: "Store", run_id: str, here: Here) -> Outcome:
    """End the run as killed, unless it has changed since it was found.

    A store has no request that changes a run only if it is still running. So the run is read before and after what is
    written, and a request that was not answered is not repeated before the run was read again: it may have been
    published meanwhile. A record that is published at the same time corrects what is written here.
    Raises what the store raises, unless it refuses this run only.
    """
    from mlflow.exceptions import MlflowException

    stuck = _StuckRun(store, run_id, here)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with settings(SENT_ONCE, override=True):
                return stuck.attempt()
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return Outcome("left", "it was deleted")
            if error.error_code in NOT_ANSWERED and attempt < ATTEMPTS:
                time.sleep(attempt)
            elif error.error_code == "PERMISSION_DENIED" or check_tracking(store.client.tracking_uri) is None:
                return Outcome("refused", without_secrets(explain(error)))
            else:
                raise
    raise AssertionError  # the last attempt returns or raises


class _StuckRun:
    """The end of one run. An attempt goes on where the one before it was not answered."""

    def __init__(self, store: "Store", run_id: str, here: Here) -> None:
        self._client, self._run_id, self._here = store.client, run_id, here
        self._before: Run | None = None  # as it was before we wrote
        self._reason = ""

    def attempt(self) -> Outcome:
        run = self._read_just_now()
        if run.info.lifecycle_stage != "active":
            return Outcome("left", "it was deleted")
        if self._before is None or run.info.status == RUNNING:
            facts = facts_of(run)
            reason = why_stuck(facts, self._here)
            if reason is None:
                why = "it lives" if facts.status == RUNNING else f"it has ended by itself ({facts.status})"
                return Outcome("left", why)
            self._before, self._reason = run, reason
            self._client.set_terminated(self._run_id, KILLED.upper())
            run = self._read_just_now()
        return self._mark(self._before, run)

    def _mark(self, before: "Run", run: "Run") -> Outcome:
        from mlflow.entities import RunTag

        if _is_published(before, run):
            if run.info.status == KILLED.upper():
                self._give_back(run)
            return Outcome("left", "it was published just now")
        marks = _marks(facts_of(before), self._reason)
        self._client.log_batch(self._run_id, tags=[RunTag(*tag) for tag in marks.items()])
        after = self._client.get_run(self._run_id)
        if _is_published(run, after):
            return Outcome("left", f"it was published just now{self._take_back(marks, run, after)}")
        return Outcome("ended", self._reason)

    def _take_back(self, marks: Mapping[str, str], before: "Run", after: "Run") -> str:
        """Undo our marks in a run that was published at the same time. Returns what is left to do, to be told."""
        from mlflow.entities import RunTag

        earlier = {name: text for name, text in before.data.tags.items() if name in marks}
        if names.TAG_RECORDED_UNTIL.name not in before.data.tags:  # else it had what its record says, from earlier
            if after.info.status != MLFLOW_STATUS["ok"]:
                return "; `ttt-mlflow sync --verify` of its record corrects what was written here"
            earlier[names.TAG_STATUS.name] = "ok"
        for name in marks.keys() - earlier.keys():
            if after.data.tags.get(name) == marks[name]:
                self._client.delete_tag(self._run_id, name)
        ours = [RunTag(name, text) for name, text in earlier.items() if after.data.tags.get(name) == marks[name]]
        self._client.log_batch(self._run_id, tags=ours)
        return ""

    def _read_just_now(self) -> "Run":
        """The run as it is now. An answer that was long under way tells what was, and is asked for again.

        On a server whose answers are all slow, two that agree suffice: a publication takes more than one request.
        """
        last: Run | None = None
        while True:
            asked_at = time.monotonic()
            run = self._client.get_run(self._run_id)
            if time.monotonic() - asked_at < QUICK_S or (last is not None and _state(last) == _state(run)):
                return run
            last = run

    def _give_back(self, run: "Run") -> None:
        """Give the run the end that its record says, if that has arrived."""
        tags = run.data.tags
        status, until = tags.get(names.TAG_STATUS.name, ""), tags.get(names.TAG_RECORDED_UNTIL.name)
        if status in MLFLOW_STATUS and until:
            self._client.set_terminated(run.info.run_id, MLFLOW_STATUS[status], milliseconds(until))


def _is_published(before: "Run", after: "Run") -> bool:
    """Whether a process has begun to publish the run between the two times at which it was read."""
    return after.info.status != KILLED.upper() or _state(before)[1:] != _state(after)[1:]


def _state(run: "Run") -> tuple[str | None, ...]:
    """The status, and what a publication changes before it changes the status."""
    return run.info.status, *(run.data.tags.get(name) for name in BY_A_PUBLISHER)


def _marks(run: RunFacts, reason: str) -> dict[str, str]:
    """The tags that say how the run ended. A record that is published into it replaces them."""
    from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

    message = clipped(f"nobody works on this run any more: {reason}", MAX_TAG_VAL_LENGTH)
    marks = {names.TAG_STATUS.name: KILLED, names.TAG_MESSAGE.name: message}
    if not run.tags.get(NOTE):
        marks[NOTE] = f"**killed**\n\n{message}"
    kind = kind_of(run.tags, run.tags.get(ENTRY_POINT, "main"), run.params.get("mode"))
    is_known = run.params or run.journal_id  # `mlflow run` may have been killed before it wrote what was asked for
    if names.TAG_KIND.name not in run.tags and kind in ENDED_KINDS and is_known:
        marks[names.TAG_KIND.name] = kind
    return marks

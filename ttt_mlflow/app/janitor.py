"""Carries out the command janitor, and the same work at the end of sync: ends runs on which nobody works any more."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow.app.output import print_error, print_text, progress_lines
from ttt_mlflow.config import DEFAULT_LOGDIR
from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.text import counted, printable

if TYPE_CHECKING:
    from ttt_mlflow.tracking.query import Store
    from ttt_mlflow.tracking.stuck_runs import Here, RunFacts
    from ttt_mlflow.tracking.sync import SyncResult

OLDER_THAN = "24h"
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
SETTLED = ("published", "already published", "damaged")  # outcomes of sync after which no later sync sends anything


@dataclass(frozen=True)
class Asked:
    """What to look for and where, as given. everywhere: in all experiments. dry_run: only list."""

    tracking_uri: str | None = None
    experiment_name: str | None = None
    logdir: str = DEFAULT_LOGDIR
    older_than: str = OLDER_THAN
    everywhere: bool = False
    dry_run: bool = False


def clean(asked: Asked) -> int:
    """End the stuck runs, print a line for each, and return the exit code: 4 if the store refused one.

    Raises BadInput for an unknown experiment, and for a store that does not answer.
    """
    from ttt_mlflow.tracking.query import open_store
    from ttt_mlflow.tracking.store import resolve_tracking_uri
    from ttt_mlflow.tracking.stuck_runs import Here, end_run, experiments_of, find_stuck

    if asked.everywhere and asked.experiment_name:
        raise BadInput(
            f"experiment_name={asked.experiment_name}: one experiment and all of them are two wishes; "
            "give either --experiment-name or --all-experiments"
        )
    here = Here.and_now(duration(asked.older_than))
    uri, progress = resolve_tracking_uri(asked.tracking_uri), progress_lines()
    counts: Counter[str] = Counter()
    with open_store(uri) as store:
        progress(f"reading the runs of {store.place}")
        experiments = experiments_of(store, asked.experiment_name, asked.everywhere)
        for run, reason in find_stuck(store, experiments, here, progress):
            record = _record_of(run, Path(asked.logdir))
            if record:
                later = f"ttt-mlflow sync {shlex.quote(str(record))} --tracking-uri {shlex.quote(store.place)}"
                outcome, text = "left to sync", f"{reason}; publish what it measured with: {later}"
            elif asked.dry_run:
                outcome, text = "would be ended", reason
            else:
                done = end_run(store, run.run_id, here)
                outcome, text = done.outcome, done.why
            counts[outcome] += 1
            _print_run(run, here, outcome, text)
    ended = counts["would be ended"] if asked.dry_run else counts["ended"]
    others = "".join(f", {number} {word}" for word in ("left", "left to sync", "refused") if (number := counts[word]))
    print_text(
        f"{counted(ended, 'run')} {'would be ended' if asked.dry_run else 'ended'} as killed in {store.place}{others}."
    )
    return PublishFailed.exit_code if counts["refused"] else 0


def clean_after_sync(results: Sequence["SyncResult"], tracking_uri: str | None) -> int:
    """The same for the stores to which ``sync`` has just published; silent where there is nothing to end.

    The runs of records that a later sync will publish are left to it, also those that another sync has begun to
    publish, from whatever folder: it may be at work again in a moment. The run of a damaged record is not: nothing
    will be published into it. A store that cannot be read is told and does not count: the records are what sync is for.
    """
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    if results and all(result.outcome == "failed" for result in results):
        return 0  # each has said why, and the store was asked often enough
    waiting = {result.journal.journal_id for result in results if result.outcome not in SETTLED}
    published = [result.run for result in results if result.run]
    if tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"):
        uris = [resolve_tracking_uri(tracking_uri)]
    else:  # a file: where a record from elsewhere names a server, nobody has asked to go there
        uris = sorted({run.tracking_uri for run in published if urlsplit(run.tracking_uri).scheme == "sqlite"})
    refused = 0
    for uri in uris:
        also = {run.experiment_id for run in published if run.tracking_uri == without_secrets(uri)}
        try:
            refused += _clean_quietly(uri, also, waiting)
        except BadInput as error:
            print_error(f"Note: runs that nobody works on any more were not looked for: {error}")
    return PublishFailed.exit_code if refused else 0


def _clean_quietly(uri: str, also: Collection[str], waiting: Collection[str]) -> int:
    """End the stuck runs of the usual experiments and of those in ``also``. Returns how many the store refused."""
    from ttt_mlflow.tracking.query import open_store
    from ttt_mlflow.tracking.stuck_runs import Here, end_run, find_stuck, waits_for_sync

    here, progress, refused = Here.and_now(), progress_lines(), 0
    with open_store(uri) as store:
        experiments = sorted({*_usual_experiments(store), *also})
        for run, _ in find_stuck(store, experiments, here, progress):
            if run.journal_id not in waiting and not waits_for_sync(run):
                done = end_run(store, run.run_id, here)
                refused += done.outcome == "refused"
                _print_run(run, here, done.outcome, done.why)
    return refused


def _usual_experiments(store: "Store") -> list[str]:
    try:
        return store.experiments(None)
    except BadInput:  # MLFLOW_EXPERIMENT_NAME names one that no run has been published to yet
        return []


def _print_run(run: "RunFacts", here: "Here", outcome: str, text: str) -> None:
    from ttt_mlflow.tracking.stuck_runs import in_words

    age = f"{in_words(here.now - run.started_at)} old" if run.started_at else "of unknown age"
    line = printable(f"{run.run_id} {run.name}, {age}: {outcome}: {text}")
    (print_error if outcome == "refused" else print_text)(line)


def _record_of(run: "RunFacts", logdir: Path) -> Path | None:
    """The folder of the run's record, if it is in ``logdir``. Only a run whose id has the right form was found."""
    folder = logdir / run.journal_id
    return folder if run.journal_id and (folder / "status.json").is_file() else None


def duration(text: str) -> timedelta:
    """The length of time of ``30m``, ``24h``, ``7d`` or ``0s``."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([smhd])", text.strip())
    if not found:
        raise BadInput(
            f"older_than={text}: not allowed; older_than takes a number and s, m, h or d, for example 30m, 24h or 7d"
        )
    return timedelta(**{UNITS[found[2]]: float(found[1])})

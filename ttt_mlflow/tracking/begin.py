"""Begins the MLflow run of a record before anything is built: makes it, or takes over that of ``mlflow run``.

From then on whoever looks sees it RUNNING. Its tag ``ttt.alive_until`` says until when it may take.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.config.run_name import MOST
from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking import publish
from ttt_mlflow.tracking.experiments import deleted_text, experiment_named, refuse_unusable, unknown_text
from ttt_mlflow.tracking.new_store import make_ready
from ttt_mlflow.tracking.refusal import why_refused
from ttt_mlflow.tracking.run_values import record_id
from ttt_mlflow.tracking.store import (
    PATIENCE,
    QUIET,
    SENT_ONCE,
    UnusableExperiment,
    check_place,
    clipped,
    explain,
    known_errors,
    quiet_loggers,
    settings,
    user_name,
)
from ttt_mlflow.tracking.takeover import Candidate, why_not

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LONGEST_ID = 19  # digits of a 64-bit number; databases break with longer ones
PUBLISHING_S = 3600.0  # how long a run that is only published may take


@dataclass(frozen=True)
class Begun:
    """The run of a record that begins. taken_over: ``mlflow run`` made it. note: what to tell, one line, or None."""

    run_id: str
    experiment_id: str
    taken_over: bool = False
    note: str | None = None


def begin(
    journal: Journal,
    tracking_uri: str,
    candidate: Candidate | None = None,
    experiment_name: str | None = None,
    alive_s: float = 0.0,
) -> Begun:
    """Make the run of ``journal``, or take over that of ``candidate``, and store its id in the record's target.

    The experiment is chosen as in :func:`ttt_mlflow.tracking.publish.publish`. alive_s: seconds that the run may take.
    Raises :class:`BadInput` if the server refuses (401, 403) or the experiment cannot take runs, and
    :class:`PublishFailed` if the server does not answer as an MLflow server. A later publication then makes the run.
    """
    publish.note_target(journal, tracking_uri, None, experiment_name)
    if reason := check_place(tracking_uri):
        raise PublishFailed(reason)
    # A request that makes a run is sent once: if its answer is lost, a second one would make a second run. What is sent
    # before it is not repeated either, so that a server that answers 503 holds nobody up.
    with asking_client(tracking_uri, place_of(journal, tracking_uri), SENT_ONCE) as client:
        tags = living_tags(journal, alive_s)
        run, reason = _taken_over(client, candidate, journal, tags) if candidate else (None, None)
        if run is not None:
            return Begun(run.info.run_id, str(run.info.experiment_id), taken_over=True)
        run = _made(client, journal, tags)
        _note(journal, run)
        return Begun(
            run.info.run_id, str(run.info.experiment_id), note=left_text(candidate, reason) if candidate else None
        )


def take_over(journal: Journal, tracking_uri: str, candidate: Candidate) -> bool:
    """Take over the run of ``candidate`` for ``journal``, if it is for this process. Raises :class:`PublishFailed`."""
    publish.note_target(journal, tracking_uri, None, None)
    try:
        with asking_client(tracking_uri, place_of(journal, tracking_uri)) as client:
            return _taken_over(client, candidate, journal, living_tags(journal, PUBLISHING_S))[0] is not None
    except BadInput as error:  # it is measured by now
        raise PublishFailed(str(error)) from None


def left_text(candidate: Candidate, reason: str | None) -> str:
    """What to tell about a run in MLFLOW_RUN_ID that is not for this process."""
    return f"MLFLOW_RUN_ID={candidate.run_id}: left as it is ({reason}); this run gets one of its own"


def is_for_this_process(tracking_uri: str, candidate: Candidate) -> str | None:
    """None if ``mlflow run`` made the run of ``candidate`` for this process, else the reason against it.

    Raises as :func:`begin`.
    """
    if not candidate.possible:
        return "`mlflow run` did not start this command"
    with asking_client(tracking_uri, f"tracking_uri={without_secrets(tracking_uri)}") as client:
        return _found(client, candidate, None)[1]


def _taken_over(
    client: "MlflowClient", candidate: Candidate, journal: Journal, tags: dict[str, str]
) -> "tuple[Run | None, str | None]":
    """The run of ``candidate`` with ``tags``; or None, and why it is not for this process."""
    from mlflow.entities import RunTag

    if not candidate.possible:
        return None, "`mlflow run` did not start this command"
    run, reason = _found(client, candidate, journal.journal_id)
    if run is not None:
        _note(journal, run)  # first, so that a later publication goes on with the run if this request fails
        client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    return run, reason


def _found(client: "MlflowClient", candidate: Candidate, journal_id: str | None) -> "tuple[Run | None, str | None]":
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(candidate.run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None, "the store has no such run"
        raise
    reason = why_not(run, candidate, journal_id)
    return (run, None) if reason is None else (None, reason)


def _made(client: "MlflowClient", journal: Journal, tags: dict[str, str]) -> "Run":
    from mlflow.exceptions import MlflowException

    target = journal.target
    name, experiment_id = target["experiment_name"], target["experiment_id"]
    found = experiment_named(client, name) if name else str(experiment_id)
    if not name and found.isdecimal() and len(found) > LONGEST_ID:
        raise UnusableExperiment(unknown_text(f"experiment_id={found}"))
    source = {"mlflow.user": user_name(), "mlflow.source.name": "ttt-mlflow", "mlflow.source.type": "LOCAL"}
    try:
        return client.create_run(
            found,
            start_time=publish.milliseconds(journal.status["started_at"]),
            run_name=clipped(journal.run_name, MOST),
            tags=tags | source,
        )
    except MlflowException as error:
        # by name, it was there a moment ago
        asked = f"experiment_name={name}" if name else f"experiment_id={experiment_id}"
        if "state is deleted" in str(error):
            raise UnusableExperiment(deleted_text(asked, found)) from error
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" and not name:
            raise UnusableExperiment(unknown_text(asked)) from error
        # invalid may be the id or something else; a server that permits nothing in an experiment does not tell that
        # it is not there
        if not name and (error.error_code == "INVALID_PARAMETER_VALUE" or why_refused(error)):
            refuse_unusable(client, found)
        raise


def _note(journal: Journal, run: "Run") -> None:
    """Store the run in the record's target, so that every later publication goes on with it."""
    target = journal.target
    target |= {"run_id": run.info.run_id, "experiment_id": str(run.info.experiment_id)}
    journal.set_target(str(target.pop("tracking_uri")), **target)


def living_tags(journal: Journal, alive_s: float) -> dict[str, str]:
    """The tags of a run whose record goes on. alive_s: seconds that it may take."""
    until = datetime.now(UTC) + timedelta(seconds=alive_s)
    own = {
        names.TAG_JOURNAL_ID.name: record_id(journal),
        names.TAG_ENTRY_POINT.name: journal.entry_point,
        names.TAG_ALIVE_UNTIL.name: until.isoformat(timespec="seconds"),
        names.TAG_PROCESS.name: json.dumps(journal.status["process"]),
    }
    known = (names.TAG_KIND.name, names.TAG_SWEEP_ID.name)
    return own | {name: journal.tags[name] for name in known if name in journal.tags}


def place_of(journal: Journal, tracking_uri: str) -> str:
    """Where the record is to be published, for a message."""
    target = journal.target
    name, experiment_id = target.get("experiment_name"), target.get("experiment_id")
    experiment = f", experiment_name={name}" if name else f", experiment_id={experiment_id}"
    return f"tracking_uri={without_secrets(tracking_uri)}{experiment}"


class _Answers(logging.Handler):
    """Hears the status of each answer. MLflow's exceptions do not tell it where a proxy answered with JSON."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.last: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        # urllib3: '%s://%s:%s "%s %s %s" %s %s', of which the last but one is the status
        if isinstance(record.args, tuple) and len(record.args) == 8 and isinstance(record.args[6], int):
            self.last = record.args[6]


@contextmanager
def asking_client(uri: str, where: str, sent: Mapping[str, str] | None = None) -> "Iterator[MlflowClient]":
    """MLflow's client, whose errors become ours. sent: how requests are sent, if not with patience."""
    with (
        settings(QUIET),
        settings(sent or {}, override=True),
        settings(PATIENCE),
        quiet_loggers(),
        _refusals(uri, where),
    ):
        from mlflow import MlflowClient

        make_ready(uri)
        yield MlflowClient(uri)


@contextmanager
def _refusals(uri: str, where: str) -> Iterator[None]:
    """Turn what a store raises into BadInput, if it is an answer that will not change, else into PublishFailed."""
    answers, logger = _Answers(), logging.getLogger("urllib3.connectionpool")
    level, spreads = logger.level, logger.propagate
    logger.addHandler(answers)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    except UnusableExperiment as error:
        raise BadInput(str(error)) from error
    except known_errors() as error:
        if refused := why_refused(error, uri, answers.last):
            raise BadInput(f"{where}: {refused}") from error
        raise PublishFailed(explain(error)) from error
    finally:
        logger.removeHandler(answers)
        logger.setLevel(level)
        logger.propagate = spreads

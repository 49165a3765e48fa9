"""Sends a journal to MLflow. One journal is one MLflow run, regardless of how often it is published.

First the values go, then the artifacts, which are read back, and last of all the run's end: a run that has ended is
complete. MLflow is imported inside the functions: that takes seconds, and a run that fails early does not need it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow import names
from ttt_mlflow.errors import BeingPublished, DamagedRecord, NotAllowed, PublishFailed, TTTError
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.process import has_ended
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.artifact_stores import WebPage, store_of
from ttt_mlflow.tracking.artifacts import RunFile, Sender, files_of, files_so_far
from ttt_mlflow.tracking.best import mark_best
from ttt_mlflow.tracking.later import sync_command
from ttt_mlflow.tracking.new_store import make_ready, sqlite_file
from ttt_mlflow.tracking.own_run import found_or_made, holds_newer, known_run, lives_on, note_target, parent_tag
from ttt_mlflow.tracking.refusal import Refusal
from ttt_mlflow.tracking.refused import end_damaged, reject_run
from ttt_mlflow.tracking.run_values import (
    MLFLOW_STATUS,
    RunValues,
    milliseconds,
    missing,
    recorded_until,
    send_values,
    values_of,
    values_so_far,
)
from ttt_mlflow.tracking.store import (
    ASKED_TWICE,
    PATIENCE,
    QUIET,
    check_tracking,
    explain,
    known_errors,
    quiet_loggers,
    settings,
)
from ttt_mlflow.tracking.views import prepare_if_new

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "How",
    "PublishedRun",
    "milliseconds",
    "note_target",
    "publish",
    "publish_so_far",
    "reject_run",
    "sync_command",
]

# A server that forwards artifacts to an object store answers an upload only after it has forwarded it.
UPLOAD_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "120", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
TIMES_CONFIRMED = 3  # how often the end of a run is written again, if another process writes there too


@dataclass(frozen=True)
class How:
    """How to publish.

    verify: read back all artifacts, also large ones and those that were verified before. is_named: whether a person
    named the store, and not the record: then artifacts may go wherever the store says. is_reached: whether the caller
    has just checked that the store answers. prepares_ui: whether to prepare the UI too; many records share that.
    """

    verify: bool = False
    is_named: bool = True
    is_reached: bool = False
    prepares_ui: bool = True


@dataclass(frozen=True)
class PublishedRun:
    """Where a journal is in MLflow.

    run_url: a link, if a server shows the run. has_views: whether the experiment has our saved views. notes: what to
    tell about the UI, one line each: a warning that something was not done, or what is left to do.
    """

    run_id: str
    experiment_id: str
    tracking_uri: str
    run_url: str | None
    has_views: bool = True
    notes: tuple[str, ...] = ()


def publish(
    journal: Journal,
    tracking_uri: str,
    run_id: str | None = None,
    experiment_name: str | None = None,
    how: How = How(),
) -> PublishedRun:
    """Write the content of ``journal`` to its MLflow run and close the run.

    The run is ``run_id`` (MLFLOW_RUN_ID, made by ``mlflow run``, whose parameters are not changed), or the run of an
    earlier, interrupted publication, or a new run in ``experiment_name`` (else MLFLOW_EXPERIMENT_NAME,
    MLFLOW_EXPERIMENT_ID, the experiment ``ttt-mlflow``). Publishing twice adds nothing twice.

    Raises :class:`PublishFailed`. The journal then still has everything for ``sync``. Raises :class:`BeingPublished`
    if another process does it now, and :class:`DamagedRecord`; the run that was begun for the record ends then.
    """
    with settings(QUIET), _in_one_line(journal, tracking_uri):
        try:
            journal.check()
            journal.close_abandoned()
            if journal.status["status"] == "running":
                raise PublishFailed(f"{journal.path}: the run has not ended; publish it after its end")
            values, files = values_of(journal), files_of(journal)
            note_target(journal, tracking_uri, run_id, experiment_name)
        except DamagedRecord as damage:
            end_damaged(journal, tracking_uri, run_id, damage)
            raise
        client, known = _reach(journal, tracking_uri, how)
        with _alone(journal), quiet_loggers():
            return _publish(Publication(client, journal, tracking_uri, how), known, values, files)


def publish_so_far(journal: Journal, tracking_uri: str, how: How = How()) -> None:
    """Write what the journal of a run that goes on has by now to the run that was begun for it, which stays RUNNING.

    Nothing is sent if no run was begun. Raises as :func:`publish`.
    """
    with settings(QUIET), _in_one_line(journal, tracking_uri):
        if not journal.target.get("run_id"):
            return
        client, run = _reach(journal, tracking_uri, how)
        if run is not None:
            with _alone(journal), quiet_loggers():
                publication = Publication(client, journal, tracking_uri, how)
                with settings(PATIENCE):
                    send_values(client, run.info.run_id, missing(client, run, values_so_far(journal)))
                publication.send_artifacts(run, files_so_far(journal))


def _reach(journal: Journal, tracking_uri: str, how: How) -> "tuple[MlflowClient, Run | None]":
    """A client, and the record's run if the record knows it.

    The first request tells within seconds if a server is there. Raises PublishFailed.
    """
    run_id = journal.target.get("run_id")
    is_server = urlsplit(tracking_uri).scheme in ("http", "https")
    answers = how.is_reached or (run_id and is_server)
    if (reason := None if answers else check_tracking(tracking_uri)) is not None:
        raise _failed(journal, tracking_uri, reason)
    from mlflow import MlflowClient

    with settings(ASKED_TWICE, override=True), settings(PATIENCE), quiet_loggers():
        make_ready(tracking_uri)
        client = MlflowClient(tracking_uri)
        return client, known_run(client, journal, run_id)


@dataclass(frozen=True)
class Publication:
    """One publication of a journal."""

    client: "MlflowClient"
    journal: Journal
    tracking_uri: str
    how: How

    def send_artifacts(self, run: "Run", files: list[RunFile]) -> None:
        """Send the files that the run lacks. Raises PublishFailed if one did not arrive whole."""
        journal, run_id = self.journal, run.info.run_id
        earlier = journal.uploaded
        verified = dict(earlier["files"]) if earlier.get("run_id") == run_id else {}
        with settings(UPLOAD_PATIENCE):
            sender = Sender(
                store_of(run.info.artifact_uri, self.tracking_uri),
                keep=lambda files: journal.set_uploaded(run_id, files),
                read_all=self.how.verify,
            )
            done = sender.send(files, verified)
        if done.faults:
            arrived = f"{len(done.faults)} of {len(files)} artifacts did not arrive whole: {'; '.join(done.faults)}"
            raise _failed(journal, self.tracking_uri, arrived)


def _publish(publication: Publication, known: "Run | None", values: RunValues, files: list[RunFile]) -> PublishedRun:
    client, journal, tracking_uri = publication.client, publication.journal, publication.tracking_uri
    with settings(PATIENCE):
        run = known or found_or_made(client, journal)
        run_id, experiment_id = run.info.run_id, run.info.experiment_id
        journal.set_target(**{**journal.target, "run_id": run_id, "experiment_id": experiment_id})
        if not publication.how.is_named:
            _refuse_far_artifacts(journal, tracking_uri, run)
    if not holds_newer(run, recorded_until(journal)):
        with settings(PATIENCE):
            _write_values(client, journal, run, values)
        publication.send_artifacts(run, files)
        with settings(PATIENCE):
            _end(client, journal, run_id, values)
    place = without_secrets(tracking_uri)
    journal.set_published(place, run_id, experiment_id)
    has_views, notes = True, tuple[str, ...]()
    if publication.how.prepares_ui:
        with settings(PATIENCE):
            has_views, notes = prepare_if_new(client, experiment_id)
            notes += mark_if_best(client, experiment_id, values.tags)
    return PublishedRun(run_id, experiment_id, place, _run_url(place, experiment_id, run_id), has_views, notes)


def _write_values(client: "MlflowClient", journal: Journal, run: "Run", values: RunValues) -> None:
    lacking = missing(client, run, values)
    more = parent_tag(client, journal, run.info.experiment_id)
    if run.info.status != MLFLOW_STATUS[journal.status["status"]] and _seems_abandoned(journal):
        more |= lives_on()
    send_values(client, run.info.run_id, replace(lacking, tags=lacking.tags | more))
    _delete_message(client, run, values)


def _seems_abandoned(journal: Journal) -> bool:
    """Whether others may end the run as nobody's: the process that measured is not there any more."""
    return has_ended(journal.status["process"]) is not False


def _delete_message(client: "MlflowClient", run: "Run", values: RunValues) -> None:
    """Delete the message of whoever ended the run before it was published."""
    if names.TAG_MESSAGE.name in run.data.tags and names.TAG_MESSAGE.name not in values.tags:
        client.delete_tag(run.info.run_id, names.TAG_MESSAGE.name)


def _end(client: "MlflowClient", journal: Journal, run_id: str, values: RunValues) -> None:
    """End the run. What another process wrote meanwhile, because it took the run for nobody's, is replaced."""
    status = journal.status
    wanted = MLFLOW_STATUS[status["status"]], milliseconds(status["ended_at"])
    client.set_terminated(run_id, *wanted)
    for _ in range(TIMES_CONFIRMED if _seems_abandoned(journal) else 0):
        run = client.get_run(run_id)
        lacking = missing(client, run, replace(values, points=[]))
        if (run.info.status, run.info.end_time) == wanted and not lacking.tags:
            return
        send_values(client, run_id, lacking)
        _delete_message(client, run, values)
        client.set_terminated(run_id, *wanted)


def mark_if_best(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str]) -> tuple[str, ...]:
    """Mark the best run of the configuration of a run with these tags. It is published, so a failure is only told."""
    if tags.get(names.TAG_VERDICT.name) == "valid" and (config_id := tags.get(names.TAG_CONFIG_ID.name)):
        try:
            mark_best(client, experiment_id, config_id, tags[names.TAG_KIND.name])
        except known_errors() as error:
            return (f"Warning: the best run of the configuration could not be marked ({explain(error)})",)
    return ()


def _refuse_far_artifacts(journal: Journal, tracking_uri: str, run: "Run") -> None:
    """Refuse an SQLite file that only the record names, if its artifacts go anywhere but beside it."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    beside = (sqlite_file(tracking_uri) or Path(":memory:")).resolve().parent
    uri = run.info.artifact_uri
    if urlsplit(uri).scheme in ("", "file") and Path(local_file_uri_to_path(uri)).resolve().is_relative_to(beside):
        return
    reason = f"nobody but the record names this store, and its artifacts go to {without_secrets(uri)}"
    raise _failed(journal, tracking_uri, reason)


def _run_url(tracking_uri: str, experiment_id: str, run_id: str) -> str | None:
    if urlsplit(tracking_uri).scheme not in ("http", "https"):
        return None
    return f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


@contextmanager
def _alone(journal: Journal) -> Iterator[None]:
    """Keep other processes from publishing the journal. Raises BeingPublished if one does."""
    with ExitStack() as stack:
        try:
            stack.enter_context(journal.publishing())
        except PublishFailed as error:
            raise BeingPublished(str(error)) from None
        yield


@contextmanager
def _in_one_line(journal: Journal, tracking_uri: str) -> Iterator[None]:
    """Turn errors of a client, a database driver or an upload into a one-line :class:`PublishFailed`."""
    try:
        yield
    except TTTError:
        raise
    except known_errors() as error:
        # not from the error: a traceback would show it, and with it the whole URI
        raise _failed(journal, tracking_uri, _reason(error, tracking_uri)) from None


def _reason(error: Exception, tracking_uri: str) -> str:
    if isinstance(error, WebPage):
        return str(error)
    if "not in a valid JSON format" in str(error):
        return "it answered with something else than MLflow's JSON, as a proxy's login page does"
    return explain(error, tracking_uri)


def _failed(journal: Journal, tracking_uri: str, reason: str) -> PublishFailed:
    kind = NotAllowed if isinstance(reason, Refusal) else PublishFailed
    return kind(
        f"not published to {without_secrets(tracking_uri)}: {without_secrets(reason)}; the record is kept; "
        f"publish it later with: {sync_command(journal.path, tracking_uri)}"
    )

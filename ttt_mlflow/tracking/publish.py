"""Sends a journal to MLflow. One journal is one MLflow run, regardless of how often it is published.

MLflow is imported inside the functions. The import takes seconds, and a run that fails early does not need it.
"""

import getpass
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.config.run_name import MOST
from ttt_mlflow.errors import PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.best import mark_best
from ttt_mlflow.tracking.derived import missing_metrics, missing_tags
from ttt_mlflow.tracking.new_store import make_ready
from ttt_mlflow.tracking.run_color import RUN_COLOR
from ttt_mlflow.tracking.store import (
    DEFAULT_EXPERIMENT,
    MLFLOW_DEFAULT_ID,
    PATIENCE,
    QUIET,
    check_tracking,
    clipped,
    experiment_named,
    explain,
    known_errors,
    quiet_loggers,
    settings,
)
from ttt_mlflow.tracking.views import prepare_if_new

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

KINDS = ("decode", "prefill", "micro", "compare")
GIT_TAGS = tuple(tag.name for tag in (names.TAG_GIT_COMMIT, names.TAG_GIT_BRANCH, names.TAG_GIT_REPO_URL))
LOGGED_ARTIFACTS = "mlflow.loggedArtifacts"  # MLflow's UI finds tables by this tag
PARENT_RUN = "mlflow.parentRunId"  # MLflow's own tag
MLFLOW_STATUS = {"ok": "FINISHED", "oom": "FAILED", "error": "FAILED", "killed": "KILLED"}

# A server that forwards artifacts to an object store answers an upload only after it has forwarded it.
UPLOAD_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "120", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
# Limits of one log_batch call: 1000 entries, including at most 100 parameters and 100 tags.
METRICS_PER_CALL, PARAMS_PER_CALL, TAGS_PER_CALL = 800, 100, 100


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
    journal: Journal, tracking_uri: str, run_id: str | None = None, experiment_name: str | None = None
) -> PublishedRun:
    """Write the content of ``journal`` to its MLflow run and close the run.

    The run is ``run_id`` (MLFLOW_RUN_ID, made by ``mlflow run``, whose parameters are not changed), or the run of an
    earlier, interrupted publication, or a new run in ``experiment_name`` (else MLFLOW_EXPERIMENT_NAME,
    MLFLOW_EXPERIMENT_ID, the experiment ``ttt-mlflow``). Publishing twice adds nothing twice.

    Raises :class:`PublishFailed`. The journal then still has everything for ``sync``.
    """
    with settings(QUIET):
        try:
            journal.close_abandoned()
            if journal.status["status"] == "running":
                raise PublishFailed(f"{journal.path}: the run has not ended; publish it after its end")
            note_target(journal, tracking_uri, run_id, experiment_name)
            reason = check_tracking(tracking_uri)
            if reason:
                raise _failed(journal, reason)
            with journal.publishing(), _mlflow_errors(journal), quiet_loggers():
                make_ready(tracking_uri)
                return _publish(journal, tracking_uri)
        except OSError as error:  # of the journal; errors of MLflow are handled inside
            raise _failed(journal, without_secrets(str(error))) from None


def reject_run(run_id: str, tracking_uri: str, message: str, status: str = "error") -> None:
    """Record in ``run_id``, which ``mlflow run`` made, why nothing was measured, and close the run.

    ``message`` has one line for each fault. The run's name and description say what was refused. Raises
    :class:`PublishFailed`.
    """
    with settings(QUIET), settings(PATIENCE):
        from mlflow import MlflowClient
        from mlflow.entities import RunTag
        from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

        message = without_secrets(message)
        faults = message.splitlines()
        name = "stopped before measuring" if status == "killed" else f"refused: {_subjects(faults)}"
        described = "\n".join([f"**{name}**", "", "Nothing was measured:", "", *(f"- {fault}" for fault in faults)])
        tags = {
            names.TAG_STATUS.name: status,
            names.TAG_MESSAGE.name: clipped(message, MAX_TAG_VAL_LENGTH),
            "mlflow.note.content": clipped(described, MAX_TAG_VAL_LENGTH),
        }
        try:
            with quiet_loggers():
                client = MlflowClient(tracking_uri)
                tags |= _kind_tags(client.get_run(run_id))
                client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
                client.update_run(run_id, name=clipped(name, MOST))
                client.set_terminated(run_id, MLFLOW_STATUS[status])
        except known_errors() as error:
            place = without_secrets(tracking_uri)
            raise PublishFailed(f"the run {run_id} in {place} could not be marked: {explain(error)}") from None


def _subjects(faults: Sequence[str]) -> str:
    """What each fault is about: ``batch=0, foo=1`` for lines such as ``batch=0: not allowed; …``."""
    return ", ".join(fault.partition(": ")[0] for fault in faults)


def _kind_tags(run: "Run") -> dict[str, str]:
    """The kind of a run that ``mlflow run`` made, from its entry point and mode; empty if they name none."""
    entry_point = run.data.tags.get("mlflow.project.entryPoint", "")
    kind = run.data.params.get("mode") if entry_point == RunConfig.entry_point else entry_point
    return {names.TAG_KIND.name: kind} if kind in KINDS else {}


def note_target(journal: Journal, tracking_uri: str, run_id: str | None, experiment_name: str | None) -> None:
    """Store in the journal where it is to be published.

    Explicit arguments take precedence, then the environment, then what the journal already has, then the experiment
    ``ttt-mlflow``. A record of version 0.1 that names no experiment stays without one: it may have been begun in
    MLflow's default experiment.
    """
    tracking_uri = without_secrets(tracking_uri)
    earlier = journal.target
    same_store = earlier.get("tracking_uri") == tracking_uri
    name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    experiment_id = None if name else os.environ.get("MLFLOW_EXPERIMENT_ID")
    if not name and not experiment_id:
        name = earlier.get("experiment_name")
        experiment_id = earlier.get("experiment_id") if same_store else None
    if not earlier and not name and not experiment_id:
        name = DEFAULT_EXPERIMENT
    run_id = run_id or (earlier.get("run_id") if same_store else None)
    journal.set_target(tracking_uri, run_id, name, experiment_id)


def _publish(journal: Journal, tracking_uri: str) -> PublishedRun:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    with settings(PATIENCE):
        run = _own_run(client, journal) or _find_or_create(client, journal)
        run_id, experiment_id = run.info.run_id, run.info.experiment_id
        journal.set_target(**{**journal.target, "run_id": run_id})
        _log_values(client, journal, run)
    with settings(UPLOAD_PATIENCE):
        _log_artifacts(client, journal, run_id)
    with settings(PATIENCE):
        _close(client, journal, run_id)
    place = without_secrets(tracking_uri)
    journal.set_published(place, run_id, experiment_id)
    with settings(PATIENCE):
        has_views, notes = _prepare_ui(client, journal, experiment_id)
    return PublishedRun(run_id, experiment_id, place, _run_url(place, experiment_id, run_id), has_views, notes)


def _prepare_ui(client: "MlflowClient", journal: Journal, experiment_id: str) -> tuple[bool, tuple[str, ...]]:
    """What MLflow's UI shows besides the run itself. The run is published already, so a failure is only noted."""
    has_views, notes = prepare_if_new(client, experiment_id)
    tags = tags_of(journal)
    if tags.get(names.TAG_VERDICT.name) == "valid" and (config_id := tags.get(names.TAG_CONFIG_ID.name)):
        try:
            mark_best(client, experiment_id, config_id, tags[names.TAG_KIND.name])
        except known_errors() as error:
            notes += (f"Warning: the best run of the configuration could not be marked ({explain(error)})",)
    return has_views, notes


def _own_run(client: "MlflowClient", journal: Journal) -> "Run | None":
    """The run of the journal's target; None if it was deleted or belongs to another journal."""
    from mlflow.exceptions import MlflowException

    run_id = journal.target["run_id"]
    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    holds = run.data.tags.get(names.TAG_JOURNAL_ID.name, journal.journal_id)
    return run if run.info.lifecycle_stage == "active" and holds == journal.journal_id else None


def _find_or_create(client: "MlflowClient", journal: Journal) -> "Run":
    def runs_of_journal(experiment_id: str) -> list["Run"]:
        condition = f"tags.`{names.TAG_JOURNAL_ID.name}` = '{journal.journal_id}'"
        return list(client.search_runs([experiment_id], condition, order_by=["start_time ASC"]))

    target, experiment_id = journal.target, MLFLOW_DEFAULT_ID
    if target["experiment_name"] or target["experiment_id"]:
        name = target["experiment_name"]
        experiment_id = experiment_named(client, name) if name else str(target["experiment_id"])
    elif not runs_of_journal(MLFLOW_DEFAULT_ID):  # a record of version 0.1, and not begun there
        experiment_id = experiment_named(client, DEFAULT_EXPERIMENT)
    runs = runs_of_journal(experiment_id)
    if not runs:
        created = client.create_run(
            experiment_id,
            start_time=milliseconds(journal.status["started_at"]),
            run_name=journal.run_name,
            tags={
                names.TAG_JOURNAL_ID.name: journal.journal_id,
                "mlflow.user": _user(),
                "mlflow.source.name": "ttt-mlflow",
                "mlflow.source.type": "LOCAL",
            },
        )
        # If a response is lost, the client repeats the request, and the server has made two runs.
        runs = runs_of_journal(experiment_id) or [created]
    run, *ghosts = runs
    for ghost in ghosts:
        client.delete_run(ghost.info.run_id)
    return run


def _log_values(client: "MlflowClient", journal: Journal, run: "Run") -> None:
    """Write missing parameters, metrics, series and tags in as few calls as the limits allow."""
    from mlflow.entities import Param, RunTag
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

    params = [
        Param(name, clipped(value, MAX_PARAM_VAL_LENGTH))
        for name, value in journal.params.items()
        if name not in run.data.params
    ]
    values = _tags(journal, run) | _parent_tag(client, journal, run.info.experiment_id)
    tags = [
        RunTag(name, clipped(value, MAX_TAG_VAL_LENGTH))
        for name, value in values.items()
        if name != RUN_COLOR or name not in run.data.tags  # a person may have chosen another color since
    ]
    metrics = _metrics(journal)
    while metrics or params or tags:
        client.log_batch(run.info.run_id, metrics[:METRICS_PER_CALL], params[:PARAMS_PER_CALL], tags[:TAGS_PER_CALL])
        metrics, params, tags = metrics[METRICS_PER_CALL:], params[PARAMS_PER_CALL:], tags[TAGS_PER_CALL:]


def _metrics(journal: Journal) -> list["Metric"]:
    """Metrics, then series, those of the headline first: MLflow's pages show what was logged first.

    The points have the journal's times; a store keeps equal points once.
    """
    from mlflow.entities import Metric

    ended_at = milliseconds(journal.status["ended_at"])
    kind = tags_of(journal)[names.TAG_KIND.name]
    numbers = journal.metrics | missing_metrics(kind, journal.params, journal.metrics)
    values = [Metric(name, value, ended_at, 0) for name, value in numbers.items()]
    points = [Metric(name, row[2], row[0], row[1]) for name, rows in journal.series.items() for row in rows]
    mode = journal.settings.get("mode")
    return sorted(values + points, key=lambda metric: _place(metric.key, mode))


def _place(name: str, mode: str | None) -> int:
    """Where the metric ``name`` belongs in the log: the headline of the run's mode, its interval, then all others."""
    headline = names.PREFILL_TOKENS_PER_S if mode == "prefill" else names.DECODE_TOKENS_PER_S
    first = [headline.name, headline.ci_low.name, headline.ci_high.name]
    if name in first:
        return first.index(name)
    return len(first) + (not name.startswith(f"{names.KERNEL_US.name}/"))


def tags_of(journal: Journal) -> dict[str, str]:
    """The tags of the MLflow run that the record becomes."""
    status = journal.status
    tags = {**journal.tags, names.TAG_JOURNAL_ID.name: journal.journal_id, names.TAG_STATUS.name: status["status"]}
    tags[names.TAG_ENTRY_POINT.name] = journal.entry_point
    if status["message"]:
        tags[names.TAG_MESSAGE.name] = status["message"]
    if journal.description:
        tags["mlflow.note.content"] = journal.description
    return tags | missing_tags(journal.params, tags)


def _tags(journal: Journal, run: "Run") -> dict[str, str]:
    """The tags to write. ``run``: as it is; the git tags that ``mlflow run`` wrote describe the project that it ran."""
    tags = tags_of(journal)
    if (journal.artifacts / names.ARTIFACT_KERNELS.path).exists():
        tags[LOGGED_ARTIFACTS] = _with_table(run.data.tags.get(LOGGED_ARTIFACTS, "[]"), names.ARTIFACT_KERNELS.path)
    return {name: text for name, text in tags.items() if name not in GIT_TAGS or name not in run.data.tags}


def _with_table(listed: str, path: str) -> str:
    """MLflow's list of a run's logged artifacts with the table ``path``, as its ``log_table`` writes it."""
    tables, table = json.loads(listed), {"path": path, "type": "table"}
    return json.dumps(tables if table in tables else [*tables, table])


def _parent_tag(client: "MlflowClient", journal: Journal, experiment_id: str) -> dict[str, str]:
    """MLflow's tag that puts the run below its parent. Empty without a parent, and before the parent is published."""
    parent = journal.tags.get(names.TAG_PARENT_JOURNAL_ID.name)
    if parent is None:
        return {}
    condition = f"tags.`{names.TAG_JOURNAL_ID.name}` = '{parent}'"
    runs = client.search_runs([experiment_id], condition, max_results=1, order_by=["start_time ASC"])
    return {PARENT_RUN: runs[0].info.run_id} if runs else {}


def _log_artifacts(client: "MlflowClient", journal: Journal, run_id: str) -> None:
    client.log_artifact(run_id, str(journal.path / names.ARTIFACT_CONFIG.path))
    if journal.description:
        client.log_text(run_id, journal.description, names.ARTIFACT_SUMMARY.path)
    if any(journal.artifacts.iterdir()):
        client.log_artifacts(run_id, str(journal.artifacts))


def _close(client: "MlflowClient", journal: Journal, run_id: str) -> None:
    status = journal.status
    client.update_run(run_id, name=journal.run_name)
    client.set_terminated(run_id, MLFLOW_STATUS[status["status"]], milliseconds(status["ended_at"]))


def _run_url(tracking_uri: str, experiment_id: str, run_id: str) -> str | None:
    if urlsplit(tracking_uri).scheme not in ("http", "https"):
        return None
    return f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user id has no name, for example in a container
        return str(os.getuid())


def milliseconds(iso: str) -> int:
    """The time in ms since 1970, as MLflow stores it."""
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


# Reachability


# MLflow's side effects


@contextmanager
def _mlflow_errors(journal: Journal) -> Iterator[None]:
    """Turn errors of a client, a database driver or an upload into a one-line :class:`PublishFailed`."""
    try:
        yield
    except known_errors() as error:
        # not from the error: a traceback would show it, and with it the whole URI
        raise _failed(journal, explain(error)) from None


def _failed(journal: Journal, reason: str) -> PublishFailed:
    uri = journal.target.get("tracking_uri")
    return PublishFailed(
        f"not published to {uri}: {reason}; the record is kept; publish it later with: "
        f"ttt-mlflow sync {shlex.quote(str(journal.path))}"
    )

"""Send a journal to MLflow: one journal is one MLflow run, however often it is published.

MLflow is imported inside the functions: it takes seconds, and a run that fails early does not need it.
"""

import getpass
import logging
import os
import re
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow.errors import PublishFailed
from ttt_mlflow.tracking.journal import Journal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

MLFLOW_STATUS = {"ok": "FINISHED", "oom": "FAILED", "error": "FAILED", "killed": "KILLED"}
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

# MLflow waits for minutes by default; a person waits for the end of a run. What the user has set stands.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
CHECK_SECONDS = 4
CHECK_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(CHECK_SECONDS),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
# A server that takes artifacts through to an object store answers an upload only when it is through.
UPLOAD_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "120", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# Limits of one log_batch call: 1000 entries, of which 100 parameters and 100 tags.
METRICS_PER_CALL, PARAMS_PER_CALL, TAGS_PER_CALL = 800, 100, 100
CUT = " … (cut)"


@dataclass(frozen=True)
class PublishedRun:
    """Where a journal is in MLflow; ``run_url`` only where a server shows it."""

    run_id: str
    experiment_id: str
    tracking_uri: str
    run_url: str | None


def resolve_tracking_uri(explicit: str | None) -> str:
    """``explicit``, or MLFLOW_TRACKING_URI, or MLflow's own default: the SQLite file in the current folder.

    A relative SQLite path is made absolute, so that the address means the same everywhere.
    """
    uri = explicit or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    relative = re.fullmatch(r"sqlite:///([^/:].*)", uri)
    return f"sqlite:///{Path(relative[1]).absolute()}" if relative else uri


def without_password(uri: str) -> str:
    """``uri`` as it may be printed and written down."""
    return re.sub(r"^([^:/]+://[^:/@]*):[^@/]*@", r"\1@", uri)


def check_tracking(uri: str) -> str | None:
    """Ask within seconds whether ``uri`` takes records now: ``None``, or why not, in one line."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in ("http", "https"):
        return _check_server(uri)
    if scheme == "sqlite":
        return _check_sqlite(Path(uri.partition(":///")[2].partition("?")[0]))
    if scheme in DATABASE_PORTS:
        return _check_database(uri, DATABASE_PORTS[scheme])
    if scheme in ("", "file"):
        return "a folder is no tracking store any more: give http://host:port or sqlite:///path/mlflow.db"
    return None  # a store of an MLflow plug-in, or Databricks: only using it can tell


def publish(
    journal: Journal, tracking_uri: str, run_id: str | None = None, experiment_name: str | None = None
) -> PublishedRun:
    """Write everything that ``journal`` holds to its MLflow run and close the run.

    The run is ``run_id`` (MLFLOW_RUN_ID, made by ``mlflow run``, whose parameters are left alone), or the one
    that an earlier, interrupted publication began, or a new one in ``experiment_name`` (else
    MLFLOW_EXPERIMENT_NAME, MLFLOW_EXPERIMENT_ID, MLflow's default experiment). Publishing again adds nothing
    twice.

    Raises :class:`PublishFailed`; the journal then still holds everything, for ``sync``.
    """
    with _settings(QUIET):
        try:
            journal.settle()
            if journal.status["status"] == "running":
                raise PublishFailed(f"{journal.path}: the run is still going on")
            settle_target(journal, tracking_uri, run_id, experiment_name)
            reason = check_tracking(tracking_uri)
            if reason:
                raise _failed(journal, reason)
            with journal.publishing(), _mlflow_errors(journal), _quiet_loggers():
                return _publish(journal, tracking_uri)
        except OSError as error:  # the journal's own; MLflow's side is dealt with inside
            raise _failed(journal, str(error)) from error


def reject_run(run_id: str, tracking_uri: str, message: str, status: str = "error") -> None:
    """Let the run ``run_id`` that ``mlflow run`` made say why nothing was measured, and close it.

    Raises :class:`PublishFailed`.
    """
    with _settings(QUIET), _settings(PATIENCE):
        from mlflow import MlflowClient
        from mlflow.entities import RunTag
        from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

        message = clipped(message, MAX_TAG_VAL_LENGTH)
        tags = {"ttt.status": status, "ttt.message": message, "mlflow.note.content": message}
        try:
            with _quiet_loggers():
                client = MlflowClient(tracking_uri)
                client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
                client.set_terminated(run_id, MLFLOW_STATUS[status])
        except known_errors() as error:
            place = without_password(tracking_uri)
            raise PublishFailed(f"the run {run_id} in {place} was not marked: {explain(error)}") from error


def settle_target(journal: Journal, tracking_uri: str, run_id: str | None, experiment_name: str | None) -> None:
    """Note in the journal where it is to be published, for whoever does it.

    What was given stands first, then the environment, then what was noted before.
    """
    tracking_uri = without_password(tracking_uri)
    earlier = journal.target
    same_store = earlier.get("tracking_uri") == tracking_uri
    journal.set_target(
        tracking_uri,
        run_id or (earlier.get("run_id") if same_store else None),
        experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or earlier.get("experiment_name"),
        os.environ.get("MLFLOW_EXPERIMENT_ID") or (earlier.get("experiment_id") if same_store else None),
    )


def _publish(journal: Journal, tracking_uri: str) -> PublishedRun:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    with _settings(PATIENCE):
        run = _own_run(client, journal) or _find_or_create(client, journal)
        run_id, experiment_id = run.info.run_id, run.info.experiment_id
        journal.set_target(**{**journal.target, "run_id": run_id})
        _log_values(client, journal, run)
    with _settings(UPLOAD_PATIENCE):
        _log_artifacts(client, journal, run_id)
    with _settings(PATIENCE):
        _close(client, journal, run_id)
    place = without_password(tracking_uri)
    journal.set_published(place, run_id, experiment_id)
    return PublishedRun(run_id, experiment_id, place, _run_url(place, experiment_id, run_id))


def _own_run(client: "MlflowClient", journal: Journal) -> "Run | None":
    """The run that the journal's target names, unless it is gone or holds another journal."""
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
    holds = run.data.tags.get("ttt.journal_id", journal.journal_id)
    return run if run.info.lifecycle_stage == "active" and holds == journal.journal_id else None


def _find_or_create(client: "MlflowClient", journal: Journal) -> "Run":
    target = journal.target
    experiment_id = _experiment_id(client, target["experiment_name"]) or target["experiment_id"] or "0"

    def runs_of_journal() -> list["Run"]:
        condition = f"tags.`ttt.journal_id` = '{journal.journal_id}'"
        return list(client.search_runs([experiment_id], condition, order_by=["start_time ASC"]))

    runs = runs_of_journal()
    if not runs:
        created = client.create_run(
            experiment_id,
            start_time=_milliseconds(journal.status["started_at"]),
            run_name=journal.run_name,
            tags={
                "ttt.journal_id": journal.journal_id,
                "mlflow.user": _user(),
                "mlflow.source.name": "ttt-mlflow",
                "mlflow.source.type": "LOCAL",
            },
        )
        # The client repeats a request whose answer got lost, and the server then has made two runs.
        runs = runs_of_journal() or [created]
    run, *ghosts = runs
    for ghost in ghosts:
        client.delete_run(ghost.info.run_id)
    return run


def _experiment_id(client: "MlflowClient", name: str | None) -> str | None:
    """The id of the experiment ``name``, made if there is none."""
    from mlflow.exceptions import MlflowException

    if name is None:
        return None
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another run was quicker
            assert experiment is not None
    return str(experiment.experiment_id)


def _log_values(client: "MlflowClient", journal: Journal, run: "Run") -> None:
    """Parameters that the run lacks, metrics, series and tags, in as few calls as the limits allow."""
    from mlflow.entities import Param, RunTag
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

    params = [
        Param(name, clipped(value, MAX_PARAM_VAL_LENGTH))
        for name, value in journal.params.items()
        if name not in run.data.params
    ]
    tags = [RunTag(name, clipped(value, MAX_TAG_VAL_LENGTH)) for name, value in _tags(journal).items()]
    metrics = _metrics(journal)
    while metrics or params or tags:
        client.log_batch(run.info.run_id, metrics[:METRICS_PER_CALL], params[:PARAMS_PER_CALL], tags[:TAGS_PER_CALL])
        metrics, params, tags = metrics[METRICS_PER_CALL:], params[PARAMS_PER_CALL:], tags[TAGS_PER_CALL:]


def _metrics(journal: Journal) -> list["Metric"]:
    """Metrics, then series. A store keeps equal points once, so with the journal's own times none doubles."""
    from mlflow.entities import Metric

    ended_at = _milliseconds(journal.status["ended_at"])
    values = [Metric(name, value, ended_at, 0) for name, value in journal.metrics.items()]
    points = [Metric(name, row[2], row[0], row[1]) for name, rows in journal.series.items() for row in rows]
    return values + points


def _tags(journal: Journal) -> dict[str, str]:
    status = journal.status
    tags = {**journal.tags, "ttt.journal_id": journal.journal_id, "ttt.status": status["status"]}
    tags["ttt.entry_point"] = journal.entry_point
    if status["message"]:
        tags["ttt.message"] = status["message"]
    if journal.description:
        tags["mlflow.note.content"] = journal.description
    return tags


def _log_artifacts(client: "MlflowClient", journal: Journal, run_id: str) -> None:
    client.log_artifact(run_id, str(journal.path / "config.json"))
    if journal.description:
        client.log_text(run_id, journal.description, "summary.md")
    if any(journal.artifacts.iterdir()):
        client.log_artifacts(run_id, str(journal.artifacts))


def _close(client: "MlflowClient", journal: Journal, run_id: str) -> None:
    status = journal.status
    client.update_run(run_id, name=journal.run_name)
    client.set_terminated(run_id, MLFLOW_STATUS[status["status"]], _milliseconds(status["ended_at"]))


def _run_url(tracking_uri: str, experiment_id: str, run_id: str) -> str | None:
    if urlsplit(tracking_uri).scheme not in ("http", "https"):
        return None
    return f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())


def _milliseconds(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


def clipped(text: str, limit: int) -> str:
    """``text`` as every store takes it: UTF-8, no NUL, no longer than ``limit``; the journal has it all."""
    text = text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


# Reachability


@contextmanager
def client_for_a_check(uri: str) -> Iterator["MlflowClient"]:
    """MLflow's client, with its certificates, proxies and credentials, quiet and with little patience."""
    with _settings(QUIET), _settings(CHECK_PATIENCE, override=True):
        from mlflow import MlflowClient

        with _quiet_loggers():
            yield MlflowClient(uri)


@contextmanager
def client_for_reading(uri: str) -> Iterator["MlflowClient"]:
    """MLflow's client, quiet, with the patience of a person who waits for an answer."""
    if reason := check_tracking(uri) or _missing_database(uri):
        raise OSError(reason)
    with _settings(QUIET), _settings(PATIENCE):
        from mlflow import MlflowClient

        with _quiet_loggers():
            yield MlflowClient(uri)


def _missing_database(uri: str) -> str | None:
    """MLflow makes the database that it is asked for: nothing to read from."""
    path = Path(uri.partition(":///")[2].partition("?")[0])
    return f"there is no {path}" if urlsplit(uri).scheme == "sqlite" and not path.exists() else None


def _check_server(uri: str) -> str | None:
    """Ask for one experiment."""
    with client_for_a_check(uri) as client:
        from mlflow.exceptions import MlflowException

        try:
            client.search_experiments(max_results=1)
        except (MlflowException, JSONDecodeError) as error:
            return f"it does not answer as an MLflow server ({explain(error)})"
    return None


def _check_sqlite(path: Path) -> str | None:
    """Without opening it: MLflow makes a database, and its folders, where there is none."""
    if not path.exists():
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            return f"{path} cannot be made: {folder} is not a folder that you may write to"
        return None
    if not path.is_file() or not os.access(path, os.W_OK):
        return f"{path} is not a file that you may write to"
    with path.open("rb") as file:
        start = file.read(16)
    return None if start in (b"", b"SQLite format 3\0") else f"{path} is not an SQLite database"


def _check_database(uri: str, default_port: int) -> str | None:
    parts = urlsplit(uri)
    host, port = parts.hostname or "localhost", parts.port or default_port
    try:
        socket.create_connection((host, port), timeout=CHECK_SECONDS).close()
    except OSError as error:
        return f"the database at {host}:{port} does not answer: {error}"
    return None


# MLflow's side effects


@contextmanager
def _settings(values: Mapping[str, str], override: bool = False) -> Iterator[None]:
    """Environment variables for MLflow, which reads them at every request; those that are set stay."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if override or before[name] is None:
            os.environ[name] = value
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Keep table creation, migrations and retries off the terminal."""
    import mlflow  # noqa: F401  (its import sets the levels)

    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _mlflow_errors(journal: Journal) -> Iterator[None]:
    """What a client, a database driver or an upload raises, as one line for the person."""
    try:
        yield
    except known_errors() as error:
        raise _failed(journal, explain(error)) from error


def known_errors() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError, ImportError, JSONDecodeError)


def _failed(journal: Journal, reason: str) -> PublishFailed:
    uri = journal.target.get("tracking_uri")
    return PublishFailed(
        f"not published to {uri}: {reason}; the record is kept, publish it later with: "
        f"ttt-mlflow sync {shlex.quote(str(journal.path))}"
    )


def explain(error: BaseException) -> str:
    """What went wrong, in short: under MLflow's and urllib3's wrappers lies what the system said."""
    deepest = error
    while below := deepest.__cause__ or deepest.__context__:
        deepest = below
    said = str(deepest if isinstance(deepest, OSError) else error).strip()
    return clipped(said.splitlines()[0] if said else type(error).__name__, 300)

"""Tracking stores: their URIs, MLflow's client, and whether they can be reached."""

import getpass
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow.errors import BadInput
from ttt_mlflow.redaction import remember_secrets, without_secrets
from ttt_mlflow.tracking.new_store import make_ready, sqlite_file, sqlite_uri
from ttt_mlflow.tracking.refusal import why_refused

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHECK_STORE = "`ttt-mlflow doctor` checks the store"  # what to do about one that cannot be read
DEFAULT_EXPERIMENT = "ttt-mlflow"  # unless an experiment is given; "Default" is for everybody's runs
MLFLOW_DEFAULT_ID = "0"  # of the experiment "Default", in every store
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
SCHEMES = ("http", "https", "sqlite", *DATABASE_PORTS, "databricks", "file", "uc")
# MLflow waits for minutes by default, but a user waits for the end of a run. Values that the user has set are kept.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
SENT_ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
ASKED_TWICE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}  # a question; a server may just have closed its connection
CHECK_SECONDS = 4
CHECK_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(CHECK_SECONDS),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
NO_REDIRECTS = {"MLFLOW_ALLOW_HTTP_REDIRECTS": "false"}
REDIRECTED = re.compile(r"failed with error code (30[1-8])\b")
KEEPS_THE_REQUEST = ("307", "308")  # after another redirect, a POST becomes a GET
# Of the single runs of a comparison, which publishes them itself. Every version since 0.1 keeps the record of a run
# with it, without importing MLflow.
NO_STORE = "file:///dev/null/ttt-mlflow-ab"
CUT = " … (cut)"
DATABRICKS = "databricks"  # the workspace that the environment or a profile names; with a profile it is a URI


class UnusableExperiment(Exception):
    """The experiment cannot take runs. The message is one line and says what to do."""


def resolve_tracking_uri(explicit: str | None) -> str:
    """``explicit``, else MLFLOW_TRACKING_URI, else MLflow's default, the SQLite file in the current folder.

    A relative SQLite path becomes absolute, so that the URI means the same in every folder. White space around the
    address of a server is left out. Raises BadInput for a text that cannot be a URI. From here on, no message shows the
    credentials that are in it, and MLflow takes variables without a value for unset.
    """
    _unset_empty_variables()
    uri = explicit or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if re.match(r"\s*https?:", uri, re.IGNORECASE):
        uri = uri.strip()  # of a file that ends with a line feed, for example
    scheme, colon, rest = uri.partition(":")
    if scheme.lower().partition("+")[0] in ("sqlite", *DATABASE_PORTS):
        uri = scheme.lower() + colon + rest  # SQLAlchemy knows small letters alone
    remember_secrets(uri)
    if fault := uri_fault(uri):
        raise BadInput(f"tracking_uri={without_secrets(uri)}: {fault}")
    relative = re.fullmatch(r"sqlite:///([^/:?][^?]*)(.*)", uri, re.DOTALL)
    file = sqlite_file(uri)
    return f"{sqlite_uri(file)}{relative[2]}" if relative and file else uri


def resolve_destination(explicit: str | None) -> str:
    """The same for what is to be measured or sent. Raises BadInput also for a store that can never take a record."""
    uri = resolve_tracking_uri(explicit)
    if uri != NO_STORE and (reason := why_never(uri)):
        raise BadInput(f"tracking_uri={without_secrets(uri)}: {reason}")
    return uri


def _unset_empty_variables() -> None:
    """With an empty MLFLOW_TRACKING_SERVER_CERT_PATH MLflow checks no certificate, and numbers without digits break."""
    for name in [name for name, value in os.environ.items() if name.startswith("MLFLOW_") and not value]:
        del os.environ[name]


def uri_fault(uri: str) -> str | None:
    """Why ``uri`` cannot be one, in words of its own: those of a parser quote half a password."""
    scheme = uri.strip().partition(":")[0].partition("+")[0].lower() if ":" in uri else ""
    if re.fullmatch(r"[\w.-]+:[0-9]+(/.*)?", uri.strip()):
        return f"no scheme; for a server, write http://{uri.strip()}"
    if re.fullmatch(r"[a-z][a-z0-9.-]*", scheme) and scheme not in SCHEMES and scheme not in _plugin_schemes():
        return f"MLflow knows no scheme {scheme}; it takes {', '.join(SCHEMES)}"
    encode = "; in a user name or password, write @ : / ? # [ ] as %40 %3A %2F %3F %23 %5B %5D"
    try:
        if scheme in DATABASE_PORTS:
            from sqlalchemy import make_url
            from sqlalchemy.exc import ArgumentError

            try:
                host = make_url(uri).host or ""
            except ArgumentError:
                return f"not the URI of a database; give {scheme}://user@host:port/database"
            return f"there is no host of this name{encode}" if "@" in host else None
        if scheme in ("http", "https"):
            parts = urlsplit(uri)
            if re.search(r"\s", uri.strip()) or not parts.hostname:
                return f"no host{encode}; give http://host:port"
            _ = parts.port  # reading it checks it
    except ValueError:
        return f"the host or the port is not one; give a number for the port, and an IPv6 address in brackets{encode}"
    return None


def _plugin_schemes() -> set[str]:
    """Those of stores that other packages add to MLflow."""
    return {entry.name for entry in entry_points(group="mlflow.tracking_store")}


def check_tracking(uri: str) -> str | None:
    """Check within seconds whether ``uri`` accepts records. Returns None, or the reason in one line."""
    if _scheme(uri) in ("http", "https"):
        return _check_server(uri)
    return check_place(uri)


def _scheme(uri: str) -> str:
    """In small letters and without the name of a driver; empty for the path of a folder."""
    found = re.match(r"([a-z][a-z0-9.-]*)(\+[^:/]*)?:", uri, re.IGNORECASE)
    return found[1].lower() if found else ""


def is_databricks(uri: str) -> bool:
    """Whether the store is a Databricks workspace, for which :func:`check_tracking` asks nobody."""
    return uri == DATABRICKS or urlsplit(uri).scheme == DATABRICKS


def check_workspace(uri: str) -> str | None:
    """Ask a Databricks workspace for one experiment. Returns None, or the reason in one line."""
    with client_for_a_check(uri) as client:
        try:
            client.search_experiments(max_results=1)
        except known_errors() as error:
            return explain(error, uri)
    return None


def check_place(uri: str) -> str | None:
    """The same without a request to a server, and without MLflow."""
    if reason := why_never(uri):
        return reason
    if path := sqlite_file(uri):
        return _check_sqlite(path)
    scheme = _scheme(uri)
    return _check_database(uri, DATABASE_PORTS[scheme]) if scheme in DATABASE_PORTS else None


def why_never(uri: str) -> str | None:
    """Why ``uri`` cannot take a record, now or later, and what to use instead. None also for a store that is away.

    A store of an MLflow plug-in, and Databricks, cannot be checked without using it.
    """
    scheme = _scheme(uri)
    if scheme in ("", "file") and not is_databricks(uri):
        return "a folder is not supported as a tracking store: use http://host:port or sqlite:///path/mlflow.db"
    if scheme != "sqlite":
        return None
    path = sqlite_file(uri)
    if path is None:
        return "a database in memory ends with its process: use a file, as in sqlite:///path/mlflow.db"
    if path.is_dir():
        return f"{path} is a folder: use a file in it, as in {sqlite_uri(path / 'mlflow.db')}"
    if path.is_file() and os.access(path, os.R_OK):
        with path.open("rb") as file:
            if file.read(16) not in (b"", b"SQLite format 3\0"):
                return f"{path} is not an SQLite database: use another file"
    return None


def clipped(text: str, limit: int) -> str:
    """``text`` in a form that every store accepts: UTF-8, no NUL, at most ``limit`` long. The journal has the rest."""
    text = text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


@contextmanager
def client_for_a_check(uri: str) -> Iterator["MlflowClient"]:
    """MLflow's client for a check: quiet, with short timeouts and the user's certificates, proxies and credentials."""
    with settings(QUIET), settings(CHECK_PATIENCE, override=True):
        from mlflow import MlflowClient

        with quiet_loggers():
            yield MlflowClient(uri)


@contextmanager
def client_for_reading(uri: str) -> Iterator["MlflowClient"]:
    """MLflow's client for reading: quiet, with timeouts for an interactive command."""
    if reason := check_tracking(uri) or missing_database(uri):
        raise OSError(reason)
    with settings(QUIET), settings(PATIENCE):
        from mlflow import MlflowClient

        with quiet_loggers():
            make_ready(uri)  # a store of an older version is upgraded by whoever opens it
            yield MlflowClient(uri)


def missing_database(uri: str) -> str | None:
    """The reason for which there is nothing to read: the SQLite file does not exist. MLflow would create it."""
    path = sqlite_file(uri)
    return f"there is no {path}" if path and not path.exists() else None


def _check_server(uri: str) -> str | None:
    """Request one experiment from the server."""
    with client_for_a_check(uri) as client:
        from mlflow.exceptions import MlflowException

        try:
            with settings(NO_REDIRECTS, override=True):
                try:
                    client.search_experiments(max_results=1)
                    return None
                except MlflowException as error:
                    redirected = REDIRECTED.search(str(error))
                    if redirected is None:
                        raise
            if redirected[1] not in KEEPS_THE_REQUEST:
                return (
                    f"it redirects to another address ({redirected[1]}), and what is sent is lost on the way; give "
                    "the address to which it redirects, for example with https"
                )
            client.search_experiments(max_results=1)
        except (MlflowException, JSONDecodeError) as error:
            if refused := why_refused(error, uri):
                return refused
            return f"it does not answer as an MLflow server ({explain(error)})"
    return None


def _check_sqlite(path: Path) -> str | None:
    """Check the file without opening it as a database, because MLflow would create it and its folders."""
    if not path.exists():
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            return f"{path} cannot be created: {folder} is not a writable folder"
        return None
    if not path.is_file() or not os.access(path, os.W_OK):
        return f"{path} is not a writable file"
    return None


def _check_database(uri: str, default_port: int) -> str | None:
    from sqlalchemy import make_url

    place = make_url(uri)
    if not place.host and place.query:
        return None  # the driver finds the host in its own parameters
    host, port = place.host or "localhost", place.port or default_port
    try:
        socket.create_connection((host, port), timeout=CHECK_SECONDS).close()
    except OSError as error:
        return f"the database at {host}:{port} does not answer: {error}"
    return None


@contextmanager
def settings(values: Mapping[str, str], override: bool = False) -> Iterator[None]:
    """Set environment variables for MLflow, which reads them at every request. Variables that are set are kept."""
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
def quiet_loggers() -> Iterator[None]:
    """Keep messages about table creation, migrations and retries off the terminal.

    Tracebacks too, such as MLflow's of a database on a full disk: the caller tells of the exception in one line.
    """
    import mlflow  # noqa: F401  (its import sets the levels)

    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def user_name() -> str:
    """Who makes a run, for MLflow's tag."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user id has no name, for example in a container
        return str(os.getuid())


def known_errors() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError, ImportError, JSONDecodeError, UnusableExperiment)


def explain(error: BaseException, uri: str | None = None) -> str:
    """The cause in short: the system's own message, without the wrappers of MLflow and urllib3.

    A refusal says who was refused; with ``uri`` it also knows what stands in the address.
    """
    if refused := why_refused(error, uri):
        return refused
    deepest = error
    while below := deepest.__cause__ or deepest.__context__:
        deepest = below
    said = without_secrets(str(deepest if isinstance(deepest, OSError) else error)).strip()
    return clipped(said.splitlines()[0] if said else type(error).__name__, 300)

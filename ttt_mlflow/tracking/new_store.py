"""The first use of a database as a tracking store: MLflow makes its tables then.

MLflow does so in place and without a lock. Two processes that do it at once destroy an SQLite file, and one that is
killed meanwhile leaves half a store. So an SQLite file is made under another name and put in place whole, by one
process at a time. Others wait for it.
"""

import errno
import fcntl
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

POLL_S = 0.2
STILL_S = 3.0  # a half-made store that is unchanged for so long is made by nobody
MOST_S = 120.0  # an upgrade of a large store takes a while
MADE_BESIDE = ".new"  # end of the name under which a file is made
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# what a database says to the second of two that make the same tables
MADE_BY_ANOTHER = ("already exists", "duplicate", "uniqueviolation", "deadlock detected", "tuple concurrently updated")


def make_ready(uri: str) -> None:
    """Make the tables of the database ``uri`` if it has none, or wait for the process that makes them.

    Nothing is done for a server, and for a store of another kind. Raises what MLflow and the database raise.
    """
    if path := sqlite_file(uri):
        if not _is_whole(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(path.parent):
                _make(path, uri)
    elif urlsplit(uri).scheme.partition("+")[0] in ("postgresql", "mysql", "mssql"):
        _make_on_server(uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for another store, and for one in memory."""
    scheme, _, rest = uri.partition(":///")
    path = rest.partition("?")[0]
    if scheme.partition("+")[0].lower() != "sqlite" or path in ("", ":memory:"):
        return None
    if "%" in path:  # what the installed SQLAlchemy makes of it; MLflow writes the default store's path so
        from sqlalchemy import make_url

        path = make_url(uri).database or ""
    return Path(path).absolute()


def sqlite_uri(path: Path) -> str:
    """The URI of an SQLite store in ``path``, of which :func:`sqlite_file` makes the same path again."""
    if not re.search("[%?]", str(path)):
        return f"sqlite:///{path}"
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def _make(path: Path, uri: str) -> None:
    """Make the store, as the only process of this program that does so in its folder."""
    for left in path.parent.glob(f".{path.name}.*{MADE_BESIDE}*"):  # of processes that were killed
        left.unlink(missing_ok=True)
    if not path.exists():
        _make_beside(path, uri)
    deadline, state, since = time.monotonic() + MOST_S, _state(path), time.monotonic()
    while not _is_whole(path) and time.monotonic() < deadline:
        if (now := _state(path)) != state:  # `mlflow ui` or `mlflow run` makes or upgrades it in place
            state, since = now, time.monotonic()
        if time.monotonic() - since > STILL_S:
            # an empty file, a half-made store or one of an older version
            _let_mlflow_make(uri)
            return
        time.sleep(POLL_S)


def _make_beside(path: Path, uri: str) -> None:
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{MADE_BESIDE}")
    try:
        scheme, query = uri.partition(":")[0], uri.partition("?")[1:]
        _let_mlflow_make("".join([scheme, sqlite_uri(beside).removeprefix("sqlite"), *query]))
        try:
            os.link(beside, path)
        except FileExistsError:
            pass  # a process of another program was first
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if not path.exists():
                os.rename(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _let_mlflow_make(uri: str) -> None:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store.engine.dispose()
    SqlAlchemyStore._engine_map.pop(uri, None)


def _is_whole(path: Path) -> bool:
    """Whether the file has MLflow's newest tables, and its default experiment, which MLflow makes last."""
    if not path.is_file():
        return False
    return _state(path)[1:] == ([(_newest_tables(),)], True)


@cache
def _newest_tables() -> str:
    """The version of the tables that the installed MLflow makes. It reads all its migrations to tell it."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def _state(path: Path) -> tuple[object, object, bool]:
    """What changes while the store is made: the file, the version of its tables, and whether there is an experiment."""
    try:
        about = path.stat()
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            version = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            found = connection.execute("SELECT count(*) FROM experiments").fetchone()[0] > 0
        return (about.st_mtime_ns, about.st_size), version, found
    except (OSError, sqlite3.Error) as error:
        return (path.stat().st_mtime_ns if path.exists() else 0), str(error), False


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lock ``folder``. The lock ends with the process, and leaves no file.

    Some network file systems lock no folders. Putting a whole file in place is then the only protection.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_on_server(uri: str) -> None:
    """Let MLflow make the tables, and try again where another process made them at the same time."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    deadline = time.monotonic() + MOST_S
    while True:
        try:
            MlflowClient(uri).search_experiments(max_results=1)
            return
        except (MlflowException, SQLAlchemyError) as error:
            said = str(error).lower()
            if time.monotonic() > deadline or not any(text in said for text in MADE_BY_ANOTHER):
                raise
        time.sleep(POLL_S)

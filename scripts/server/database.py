"""The database of a team's runs: what it holds, a copy of it, and a database from a copy. SQLite and PostgreSQL."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import psutil

from scripts.server.failing import Failed, Refused, one_line
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.new_store import sqlite_file
from ttt_mlflow.tracking.store import CHECK_SECONDS, uri_fault

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

COUNTED = ("experiments", "runs", "params", "tags", "metrics")
PACKAGE = "Debian and Ubuntu: apt-get install postgresql-client"


@dataclass(frozen=True)
class Content:
    """What is in a database of runs, to hold a copy against it. schema: MLflow's version of the tables."""

    schema: str
    rows: Mapping[str, int]
    artifacts_elsewhere: int = 0  # runs whose artifacts do not go through the server

    def __str__(self) -> str:
        return f"{self.rows['runs']} runs in {self.rows['experiments']} experiments"


class Database(Protocol):
    kind: str
    uri: str

    def tables(self) -> list[str]:
        """The names of the tables; none for a database that is empty or not there yet."""

    def content(self) -> Content: ...

    def dump(self, target: Path) -> Content:
        """Write a copy as of one moment, while others go on writing. Returns what is in the copy."""

    def restore(self, source: Path) -> None:
        """Make the database of a copy, all of it or nothing."""

    def users(self) -> str | None:
        """Who has the database open, in words; None if nobody has."""


def database_at(uri: str) -> Database:
    """The database of ``uri``. Raises Refused for another kind of store."""
    scheme = urlsplit(uri).scheme.partition("+")[0].lower()
    shown = without_secrets(uri)
    if scheme == "sqlite":
        path = sqlite_file(uri)
        if path is None:
            raise Refused(f"{shown}: a database in memory ends with its server; give sqlite:////folder/mlflow.db")
        return Sqlite(path)
    if scheme == "postgres":
        raise Refused(f"{shown}: SQLAlchemy calls it postgresql://; write it so")
    if scheme != "postgresql":
        raise Refused(f"{shown}: only postgresql:// and sqlite:/// are known here")
    if fault := uri_fault(uri):
        raise Refused(f"{shown}: {fault}")
    return Postgresql(uri)


def read_content(connection: "Connection") -> Content:
    """Raises Refused if this is no store of MLflow's."""
    from sqlalchemy import inspect, text

    there = set(inspect(connection).get_table_names())
    if not there.issuperset({"alembic_version", *COUNTED}):
        raise Refused(f"{without_secrets(str(connection.engine.url))}: it has no runs of MLflow's in it")
    (schema,) = connection.execute(text("SELECT version_num FROM alembic_version")).one()
    rows = {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in COUNTED}
    not_proxied = "lifecycle_stage = 'active' AND artifact_uri NOT LIKE 'mlflow-artifacts:%'"
    elsewhere = connection.execute(text(f"SELECT count(*) FROM runs WHERE {not_proxied}")).scalar_one()
    return Content(schema, rows, elsewhere)


@contextmanager
def told_in_one_line(what: str) -> Iterator[None]:
    """Turn what a database or a disk says into Failed."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        raise Failed(f"{what}: {one_line(error)}") from None


class Sqlite:
    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uri = f"sqlite:///{path}"

    def tables(self) -> list[str]:
        if not self.path.exists():
            return []
        with told_in_one_line(self.uri), closing(self._reading()) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]

    def content(self) -> Content:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        if not self.path.is_file():
            raise Refused(f"{self.uri}: there is no such file")
        engine = create_engine("sqlite://", creator=self._reading, poolclass=NullPool)
        with told_in_one_line(self.uri), engine.connect() as connection:
            return read_content(connection)

    def dump(self, target: Path) -> Content:
        copy_sqlite(self.path, target)
        return Sqlite(target).content()

    def restore(self, source: Path) -> None:
        with told_in_one_line(self.uri):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_name(f".{self.path.name}.restored")
            try:
                shutil.copyfile(source, beside)
                os.link(beside, self.path)  # unlike a rename, it never replaces a file
            finally:
                beside.unlink(missing_ok=True)

    def users(self) -> str | None:
        """The processes that have the file open, as far as this user may see that."""
        found = []
        for process in psutil.process_iter(["pid", "name"]):
            with suppress(psutil.Error):
                if process.pid != os.getpid() and any(Path(one.path) == self.path for one in process.open_files()):
                    found.append(f"{process.info['name']} {process.pid}")
        return f"the processes {', '.join(found)}" if found else None

    def _reading(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=60)


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy an SQLite file that others write to, as of one moment, and check the copy.

    In one step: others wait for it, at most as long as it takes to read the file. In several steps the copy would begin
    again at each of their writes.
    """
    if not source.is_file():
        raise Refused(f"sqlite:///{source}: there is no such file")
    with (
        told_in_one_line(str(source)),
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=60)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing, pages=-1)
        writing.execute("PRAGMA journal_mode = DELETE")  # one file, also of a database with a write-ahead log
        found = [line for (line,) in writing.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise Failed(f"{source}: the database is damaged ({one_line(Exception(found[0]))})")


class Postgresql:
    kind = "postgresql"

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.shown = without_secrets(uri)

    def tables(self) -> list[str]:
        from sqlalchemy import inspect

        with told_in_one_line(self.shown), self.engine().connect() as connection:
            return list(inspect(connection).get_table_names())

    def content(self) -> Content:
        with told_in_one_line(self.shown), self.engine().connect() as connection:
            return read_content(connection)

    def dump(self, target: Path) -> Content:
        from sqlalchemy import text

        engine = self.engine().execution_options(isolation_level="REPEATABLE READ")
        with told_in_one_line(self.shown), engine.connect() as connection:
            # what is counted here and what pg_dump writes are of the same moment
            snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
            content = read_content(connection)
            self._call("pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}",
                       f"--file={target}")  # fmt: skip
        return content

    def restore(self, source: Path) -> None:
        self._call("pg_restore", "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error",
                   str(source))  # fmt: skip

    def users(self) -> str | None:
        from sqlalchemy import text

        others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        with told_in_one_line(self.shown), self.engine().connect() as connection:
            count = connection.execute(text(f"SELECT count(*) FROM pg_stat_activity WHERE {others}")).scalar_one()
        return f"{count} other connections" if count else None

    def engine(self) -> "Engine":
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        timeout = {} if "connect_timeout" in self.uri else {"connect_timeout": CHECK_SECONDS}
        return create_engine(self.uri, poolclass=NullPool, connect_args=timeout)

    def _call(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL's. Its command line, which everybody sees, has no password."""
        from psycopg.conninfo import make_conninfo
        from sqlalchemy import make_url

        url = make_url(self.uri).set(drivername="postgresql+psycopg")
        connection: dict[str, Any] = dict(url.get_dialect()().create_connect_args(url)[1])
        secrets = {name: connection.pop(name, None) for name in ("password", "sslpassword")}
        if secrets["sslpassword"]:
            raise Refused(f"{self.shown}: sslpassword would be on the command line of {program}; use a key without one")
        env = os.environ | ({"PGPASSWORD": secrets["password"]} if secrets["password"] else {})
        if shutil.which(program) is None:
            raise Refused(f"{program} is not on PATH; install PostgreSQL's client programs ({PACKAGE})")
        place = make_conninfo("", **connection)
        command = [program, "--no-password", f"--dbname={place}", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error" in line or "FATAL" in line] or [done.stderr]
            raise Failed(f"{self.shown}: {one_line(Exception(said[0]))}")

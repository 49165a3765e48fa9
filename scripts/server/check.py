"""Before the server starts: can it keep runs and artifacts where it is told to? Ends with 1 and one line if not.

The stores are those of MLFLOW_BACKEND_STORE_URI and MLFLOW_ARTIFACTS_DESTINATION. Nothing is made or changed, but for a
small file that is written beside the artifacts and removed. MLflow itself would ask for minutes, with a traceback each
time, and would make missing tables in any database.
"""

import os
import sqlite3
from contextlib import closing
from urllib.parse import urlsplit

from scripts.server.artifacts import Bucket, Folder, artifacts_at
from scripts.server.database import Database, Postgresql, Sqlite, database_at, told_in_one_line
from scripts.server.failing import end_with, one_line, tell
from scripts.server.schema import about_schema
from ttt_mlflow.errors import TTTError
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.store import check_place

LOCKED_S = 5.0  # others hold a lock while they write
TO_ITSELF = ("http", "https", "mlflow-artifacts")
MAY_WRITE = " AND ".join(f"has_table_privilege('runs', '{what}')" for what in ("SELECT", "INSERT", "UPDATE", "DELETE"))


def main() -> int:
    fault = database_fault(os.environ["MLFLOW_BACKEND_STORE_URI"])
    fault = fault or artifacts_fault(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    if fault:
        tell(f"Error: {fault}")
    return 1 if fault else 0


def database_fault(uri: str) -> str | None:
    scheme = urlsplit(uri).scheme.partition("+")[0].lower()
    shown = without_secrets(uri)
    try:
        if scheme in ("", "file"):
            return f"{shown}: a folder of runs is no database; give postgresql://user@host/name or sqlite:////folder/mlflow.db"
        if scheme in ("mysql", "mssql"):
            return check_place(uri)  # MLflow accepts them; here only the host is asked
        if scheme not in ("sqlite", "postgresql", "postgres"):
            return None  # a plug-in of MLflow's, which nobody else knows
        database = database_at(uri)
        return _sqlite_fault(database) if isinstance(database, Sqlite) else _postgresql_fault(database)
    except TTTError as error:
        return str(error)


def artifacts_fault(uri: str) -> str | None:
    scheme = urlsplit(uri).scheme.lower()
    if scheme in TO_ITSELF:
        return f"artifacts in {without_secrets(uri)}: this is what clients use; give a folder or s3://bucket/path"
    if scheme not in ("", "file", "s3"):
        tell(f"Note: {without_secrets(uri)} is not checked before the start; only a folder and s3:// are")
        return None
    try:
        store = artifacts_at(uri)
        assert isinstance(store, Folder | Bucket)
        return store.fault()
    except TTTError as error:
        return str(error)


def _sqlite_fault(database: Sqlite) -> str | None:
    if fault := check_place(database.uri):
        return fault
    if not database.path.exists() or not database.path.stat().st_size:
        return None
    if not os.access(database.path.parent, os.W_OK | os.X_OK):
        return f"{database.path}: SQLite writes beside the file, but {database.path.parent} is not writable"
    try:
        with closing(sqlite3.connect(database.path, timeout=LOCKED_S)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return f"{database.path}: it cannot be written to ({one_line(error)})"
    return _content_fault(database)


def _postgresql_fault(database: Database) -> str | None:
    from sqlalchemy import text

    assert isinstance(database, Postgresql)
    with told_in_one_line(database.shown), database.engine().connect() as connection:
        if connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on":
            return f"{database.shown}: the database takes no writes (a standby?); name the primary"
        if not connection.execute(text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).scalar_one():
            owner = "make the user its owner: ALTER DATABASE name OWNER TO user"
            return f"{database.shown}: the user may not make tables in it; {owner}"
        if fault := _content_fault(database):
            return fault
        if database.tables() and not connection.execute(text(f"SELECT {MAY_WRITE}")).scalar_one():
            return f"{database.shown}: the user may not write its tables; use the user who made them"
    return None


def _content_fault(database: Database) -> str | None:
    """Whether it is empty, or has what this MLflow can use."""
    shown = without_secrets(database.uri)
    accounts = {"alembic_version_auth", "users"}  # MLflow's accounts may share a database with its runs
    tables = database.tables()
    if not tables or accounts.issubset(tables):
        if "alembic_version" not in tables:
            return None
    elif "alembic_version" not in tables:
        some = ", ".join(sorted(tables)[:3])
        return f"{shown}: it has tables of something else ({some}); give a database of its own"
    reason = about_schema(database.content().schema)
    return f"{shown}: {reason}" if reason else None


if __name__ == "__main__":
    end_with(main)

"""Brings the tables of a team's database to the MLflow that is installed, after a backup.

    python upgrade.py FOLDER [BACKUP TO]

The database is that of MLFLOW_BACKEND_STORE_URI. Its URI stays off the command line, which `mlflow db upgrade` would
show to every user of the machine; this calls the same command inside this process.
"""

import os
import sys
from pathlib import Path

from scripts.server.backup import back_up
from scripts.server.database import Database, database_at, told_in_one_line
from scripts.server.failing import Failed, Refused, Stopped, end_with, one_line, tell
from scripts.server.schema import about_schema, known, newest
from ttt_mlflow.redaction import without_secrets


def main() -> int:
    folder, to = Path(sys.argv[1]).absolute(), sys.argv[2] if len(sys.argv) > 2 else ""
    database = database_at(os.environ["MLFLOW_BACKEND_STORE_URI"])
    upgrade(database, folder, Path(to).absolute() if to else None)
    return 0


def upgrade(database: Database, folder: Path, to: Path | None) -> None:
    """to: where a backup of the database and the accounts is made first; None for none."""
    shown = without_secrets(database.uri)
    before = database.content()
    if before.schema == newest():
        tell(f"{shown}: nothing to do, its tables are those of this MLflow; {before}")
        return
    if before.schema not in known():
        raise Refused(f"{shown}: {about_schema(before.schema)}")
    if users := database.users():
        raise Refused(f"{shown}: it is in use ({users}); stop the server and whatever else reads it, then try again")
    made = back_up(to, folder, database, None)[0] if to else None
    restoring = f"; the database as it was is in {made}: make an empty one from it with ./scripts/server/restore.sh"
    tell(f"Upgrading {shown} from version {before.schema} to {newest()}")
    try:
        _mlflow_db_upgrade(database.uri)
    except (Exception, Stopped) as error:
        raise Failed(f"{shown}: the upgrade failed ({one_line(error)}){restoring if made else ''}") from None
    with told_in_one_line(shown):
        after = database.content()
    if after.schema != newest() or after.rows != before.rows:
        raise Failed(f"{shown}: {before} before and {after} after the upgrade{restoring if made else ''}")
    tell(f"Upgraded: {after}, as before")


def _mlflow_db_upgrade(uri: str) -> None:
    from mlflow.db import upgrade as command

    assert command.callback is not None
    command.callback(uri)


if __name__ == "__main__":
    end_with(main)

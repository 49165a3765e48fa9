"""Makes database, accounts and artifacts of a team's server from a backup, in places that are empty.

    python restore.py BACKUP FOLDER

FOLDER is that of the server's own files. The stores are those of MLFLOW_BACKEND_STORE_URI and
MLFLOW_ARTIFACTS_DESTINATION; they need not be those of the backup.
"""

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from scripts.server import manifest
from scripts.server.artifacts import Artifacts, artifacts_at, written
from scripts.server.database import Database, Sqlite, database_at, told_in_one_line
from scripts.server.failing import Failed, Refused, end_with, tell
from scripts.server.schema import about_schema
from ttt_mlflow.redaction import without_secrets


def main() -> int:
    backup, folder = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    database = database_at(os.environ["MLFLOW_BACKEND_STORE_URI"])
    artifacts = artifacts_at(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    os.umask(0o077)
    listed = manifest.read(backup)
    with told_in_one_line(str(backup)):
        manifest.verify(backup, listed)
    refuse_occupied(listed, folder, database, artifacts)
    restore(backup, listed, folder, database, artifacts)
    rows, accounts = listed.rows, "with accounts" if listed.accounts() else "no accounts"
    count = len(listed.artifact_names())
    what = f"{count:,} artifacts" if listed.artifacts else f"no artifacts: the backup has none, see {artifacts.uri}"
    runs = f"{rows['runs']} runs in {rows['experiments']} experiments"
    tell(f"Restored the backup of {listed.made}: {runs}, {what}, {accounts}")
    if reason := about_schema(listed.schema):
        tell(f"Before a server starts: {reason}")
    return 0


def refuse_occupied(listed: manifest.Manifest, folder: Path, database: Database, artifacts: Artifacts) -> None:
    """Raises Refused unless every place is empty: nothing is ever replaced."""
    shown = without_secrets(database.uri)
    if database.kind != listed.kind:
        raise Refused(f"{shown}: the backup is of {listed.kind}; give the URI of such a database")
    if isinstance(database, Sqlite) and database.path.exists():
        raise Refused(f"{database.path} exists; move it away, or give another place with --database or --folder")
    if tables := database.tables():
        raise Refused(f"{shown}: the database is not empty ({len(tables)} tables); make a new one and name it")
    for name in listed.accounts():
        if (folder / name).exists():
            raise Refused(f"{folder / name} exists; move it away, or give another folder with --folder")
    with told_in_one_line(artifacts.uri):
        if listed.artifacts and (found := next(iter(artifacts.names()), None)):
            raise Refused(f"{artifacts.uri}: it is not empty (there is {found}); give another place with --artifacts")
        if fault := artifacts.fault():
            raise Refused(fault)


def restore(backup: Path, listed: manifest.Manifest, folder: Path, database: Database, artifacts: Artifacts) -> None:
    """Put everything in place, the database last: what ends early leaves no server that looks whole."""
    made: list[Path] = []
    put: list[str] = []

    def take_back() -> None:
        for name in put:
            artifacts.remove(name)
        for path in made:
            with suppress(OSError):
                path.unlink()

    with ExitStack() as undo, told_in_one_line(f"restoring {backup}"):
        undo.callback(take_back)
        for name in listed.artifact_names():
            put.append(name)
            artifacts.put(name, backup / manifest.ARTIFACTS / name)
        if listed.accounts():
            folder.mkdir(parents=True, exist_ok=True)
        for name in listed.accounts():
            made.append(folder / name)
            with (backup / name).open("rb") as file:
                written(file, folder / name)  # accounts.ini names the old folder; server.sh writes the new one into it
            (folder / name).chmod(0o600)
        database.restore(backup / manifest.DATABASE[listed.kind])
        undo.pop_all()
    content = database.content()
    if (content.schema, content.rows) != (listed.schema, listed.rows):
        raise Failed(f"{without_secrets(database.uri)}: it has {content}, not what the backup has; do not use it")


if __name__ == "__main__":
    end_with(main)

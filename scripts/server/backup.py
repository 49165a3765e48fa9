"""Copies database, accounts and artifacts of a team's server into a new folder, while the server runs.

    python backup.py TO FOLDER [--no-artifacts]

FOLDER is that of the server's own files. The stores are those of MLFLOW_BACKEND_STORE_URI and
MLFLOW_ARTIFACTS_DESTINATION.

The database comes first. The product sends a run's artifacts before it writes that the run has ended, and MLflow knows
what a run has from the artifacts' store alone. So whatever the copy of the database says has ended has its artifacts
in the copy, which is made later. The other way around, a run that ends in between would be without them.
"""

import os
import shutil
import stat
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from scripts.server import manifest
from scripts.server.artifacts import Artifacts, Folder, artifacts_at, written
from scripts.server.database import Content, Database, copy_sqlite, database_at, told_in_one_line
from scripts.server.failing import INCOMPLETE, Refused, end_with, tell
from ttt_mlflow.redaction import without_secrets

PROGRESS_S = 10.0


def main() -> int:
    to, folder = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    database = database_at(os.environ["MLFLOW_BACKEND_STORE_URI"])
    artifacts = None if "--no-artifacts" in sys.argv[3:] else artifacts_at(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    os.umask(0o077)  # the accounts, and what the runs say, are for whoever makes the backup
    made, content = back_up(to, folder, database, artifacts)
    print(made)
    if (elsewhere := content.artifacts_elsewhere) and artifacts:
        tell(f"Error: {elsewhere} runs have their artifacts elsewhere (see artifact_uri); these are not backed up")
        return INCOMPLETE
    return 0


def back_up(to: Path, folder: Path, database: Database, artifacts: Artifacts | None) -> tuple[Path, Content]:
    """Make a folder in ``to``. It is removed if this does not come to its end. artifacts: None leaves them out."""
    if not to.is_dir():
        raise Refused(f"--to {to}: there is no such folder; make it (is the disk for it mounted?)")
    if isinstance(artifacts, Folder):
        if to.resolve().is_relative_to(artifacts.root.resolve()):
            raise Refused(f"--to {to}: this is inside the artifacts, which are to be copied; give another folder")
        if artifacts.root.exists() and artifacts.root.stat().st_dev == to.stat().st_dev:
            tell(f"Note: {to} is on the disk of the artifacts; what takes that disk takes the backup too")
    target = to / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        target.mkdir(mode=0o700)
    except OSError as error:
        raise Refused(f"--to {to}: {target.name} cannot be made in it ({error.strerror})") from None
    whole = False
    try:
        content = _fill(target, folder, database, artifacts)
        whole = True
    finally:
        if not whole:
            shutil.rmtree(target, ignore_errors=True)
    return target, content


def _fill(target: Path, folder: Path, database: Database, artifacts: Artifacts | None) -> Content:
    import mlflow

    made = datetime.now(UTC).isoformat(timespec="seconds")
    with told_in_one_line(f"the backup in {target}"):
        content = database.dump(target / manifest.DATABASE[database.kind])
        # a new experiment is there before the permissions of whoever made it
        if (folder / manifest.ACCOUNTS_DATABASE).exists():
            copy_sqlite(folder / manifest.ACCOUNTS_DATABASE, target / manifest.ACCOUNTS_DATABASE)
        for name in manifest.PRIVATE:
            if (folder / name).exists():
                with (folder / name).open("rb") as file:
                    written(file, target / name)
        files = {path.name: _stored(path) for path in target.iterdir()}
        copied = _copy_artifacts(artifacts, target) if artifacts else {}
        manifest.write(
            target,
            manifest.Manifest(
                made=made,
                mlflow=mlflow.__version__,
                kind=database.kind,
                database=without_secrets(database.uri),
                schema=content.schema,
                rows=content.rows,
                artifacts=artifacts.uri if artifacts else None,
                files=files | copied,
            ),
        )
    size = sum(one.bytes for one in (files | copied).values())
    what = f"{len(copied):,} artifacts" if artifacts else "no artifacts, as asked"
    accounts = "with accounts" if manifest.ACCOUNTS_DATABASE in files else "no accounts"
    tell(f"Backed up: {content}, {what}, {accounts}; {size / 1e6:,.1f} MB")
    return content


def _copy_artifacts(artifacts: Artifacts, target: Path) -> dict[str, manifest.StoredFile]:
    copied, size, told = {}, 0, time.monotonic()
    for name in artifacts.names():
        path = target / manifest.ARTIFACTS / name
        digest = artifacts.fetch(name, path)
        if digest is None:  # deleted meanwhile; then no run lists it any more
            continue
        copied[f"{manifest.ARTIFACTS}/{name}"] = manifest.StoredFile(path.stat().st_size, digest)
        size += path.stat().st_size
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            tell(f"{len(copied):,} artifacts, {size / 1e6:,.0f} MB so far")
    return copied


def _stored(path: Path) -> manifest.StoredFile:
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return manifest.StoredFile(path.stat().st_size, manifest.sha256(path))


if __name__ == "__main__":
    end_with(main)

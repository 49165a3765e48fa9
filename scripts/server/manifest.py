"""A backup's list of files with sizes and SHA-256. It is written last: without it, a backup is not complete."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from scripts.server.failing import Refused

NAME = "manifest.json"
FORMAT = 1
CHUNK = 1 << 20
ARTIFACTS = "artifacts"
DATABASE = {"sqlite": "mlflow.db", "postgresql": "mlflow.dump"}
ACCOUNTS_DATABASE = "accounts.db"
PRIVATE = ("accounts.ini", "secret-key")


@dataclass(frozen=True)
class StoredFile:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    made: str
    mlflow: str
    kind: str  # of the database
    database: str  # where it was, without a password
    schema: str
    rows: Mapping[str, int]
    artifacts: str | None  # where they were; None: they are not in this backup
    files: Mapping[str, StoredFile] = field(default_factory=dict)
    format: int = FORMAT

    def artifact_names(self) -> list[str]:
        return [name.removeprefix(f"{ARTIFACTS}/") for name in self.files if name.startswith(f"{ARTIFACTS}/")]

    def accounts(self) -> list[str]:
        return [name for name in (ACCOUNTS_DATABASE, *PRIVATE) if name in self.files]


def write(folder: Path, manifest: Manifest) -> None:
    """Everything else is on the disk before, and the manifest is there whole or not at all."""
    os.sync()
    beside = folder / f".{NAME}"
    with beside.open("x") as file:
        json.dump(asdict(manifest), file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(folder / NAME)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(folder: Path) -> Manifest:
    """Raises Refused if there is no complete backup in ``folder``."""
    path = folder / NAME
    if not path.is_file():
        raise Refused(f"{folder}: no complete backup, because {NAME} is not in it; it is written last")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise Refused(f"{path}: format {content['format']} is unknown here; use the version that made it")
        files = {name: StoredFile(**about) for name, about in content.pop("files").items()}
        manifest = Manifest(**content, files=files)
        database = DATABASE[manifest.kind]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{path}: not a manifest of a backup ({type(error).__name__}: {error})") from None
    if database not in files:
        raise Refused(f"{path}: there is no {database} in it")
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or name != str(PurePosixPath(name)):
            raise Refused(f"{path}: {name!r} is no name of a file in a backup")
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Read all files. Raises Refused if one is not what was written, is missing, or came later."""
    faults = []
    for name, about in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != about.bytes:
            faults.append(f"{name} has {path.stat().st_size} bytes instead of {about.bytes}")
        elif sha256(path) != about.sha256:
            faults.append(f"{name} is not what was written")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    faults += [f"{name} came later" for name in sorted(there - set(manifest.files) - {NAME})]
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise Refused(f"{folder}: the backup is damaged: {'; '.join(faults[:3])}{more}. Use another one")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

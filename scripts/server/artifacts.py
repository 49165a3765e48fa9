"""Where the server keeps artifacts: a folder, or an S3-compatible bucket. Names in it are relative, with slashes."""

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from scripts.server.failing import Failed, Refused, one_line
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.store import CHECK_SECONDS

if TYPE_CHECKING:
    from botocore.client import BaseClient

CHUNK = 1 << 20
TRIAL = ".ttt-mlflow-check"


class Artifacts(Protocol):
    uri: str

    def names(self) -> Iterator[str]:
        """The files, in any order. Raises Refused for a link, which leads elsewhere."""

    def fetch(self, name: str, target: Path) -> str | None:
        """Copy a file to ``target``. Returns the SHA-256 of what was copied; None if the file is gone."""

    def put(self, name: str, source: Path) -> None: ...

    def remove(self, name: str) -> None: ...

    def fault(self) -> str | None:
        """Why the server cannot keep artifacts here; None if it can. Nothing is left behind."""


def artifacts_at(uri: str) -> Artifacts:
    """Raises Refused for a store of another kind."""
    scheme = urlsplit(uri).scheme.lower()
    if scheme in ("", "file"):
        place = urlsplit(uri)
        if place.netloc not in ("", "localhost"):
            raise Refused(f"{without_secrets(uri)}: a folder on another host; give file:///folder or a path")
        return Folder(Path(unquote(place.path) if scheme else uri).absolute())
    if scheme == "s3":
        return Bucket(uri)
    raise Refused(f"{without_secrets(uri)}: only a folder and s3://bucket/path are known here")


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def names(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.root, onerror=_raise):
            if Path(folder) == self.root and "lost+found" in folders:  # of a disk that is mounted here
                folders.remove("lost+found")
            for name in (*folders, *files):
                path = Path(folder, name)
                if path.is_symlink() or (name in files and not path.is_file() and path.exists()):
                    raise Refused(f"{path}: a link or no file; a backup follows no links, put the files here")
                if name in files:
                    yield path.relative_to(self.root).as_posix()

    def fetch(self, name: str, target: Path) -> str | None:
        try:
            source = (self.root / name).open("rb")
        except FileNotFoundError:
            return None
        with source:
            return written(source, target)

    def put(self, name: str, source: Path) -> None:
        with source.open("rb") as file:
            written(file, self.root / name)

    def remove(self, name: str) -> None:
        path = self.root / name
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root:
                break
            with suppress(OSError):  # it has other files
                folder.rmdir()

    def fault(self) -> str | None:
        nearest = next(one for one in (self.root, *self.root.parents) if one.exists())
        if not nearest.is_dir():
            return f"artifacts in {self.root}: {nearest} is not a folder"
        trial = nearest / f"{TRIAL}.{os.getpid()}"
        try:
            trial.write_bytes(b"x" * 4096)
        except OSError as error:
            return f"artifacts in {self.root}: {nearest} cannot be written to ({error.strerror})"
        finally:
            with suppress(OSError):
                trial.unlink(missing_ok=True)
        return None


class Bucket:
    """Reached as MLflow's server reaches it: the same endpoint, certificates and credentials."""

    def __init__(self, uri: str) -> None:
        self.uri = without_secrets(uri)
        place = urlsplit(uri)
        self.bucket = place.netloc.rpartition("@")[2]
        self.prefix = f"{place.path.strip('/')}/" if place.path.strip("/") else ""
        if "@" in place.netloc or not self.bucket:
            raise Refused(
                f"{self.uri}: give s3://bucket/path; the key belongs into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )

    def names(self) -> Iterator[str]:
        with self._told():
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for found in page.get("Contents", []):
                    name = found["Key"].removeprefix(self.prefix)
                    if name and not name.endswith("/"):  # what consoles make for a folder
                        yield name

    def fetch(self, name: str, target: Path) -> str | None:
        with self._told():
            client = self._client()
            try:
                body = client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"]
            except client.exceptions.NoSuchKey:
                return None
            with body:
                return written(body, target)

    def put(self, name: str, source: Path) -> None:
        with self._told():
            self._client().upload_file(str(source), self.bucket, self.prefix + name)

    def remove(self, name: str) -> None:
        with self._told():
            self._client().delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def fault(self) -> str | None:
        key = self.prefix + TRIAL
        try:
            self._endpoint_answers()
            with self._told():
                client = self._client()
                client.put_object(Bucket=self.bucket, Key=key, Body=b"x")
                read = client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
                client.delete_object(Bucket=self.bucket, Key=key)
        except (Failed, Refused) as error:
            return str(error)
        return None if read == b"x" else f"artifacts in {self.uri}: an object was written, and another was read"

    def _endpoint_answers(self) -> None:
        """boto3 itself waits for minutes."""
        endpoint = urlsplit(os.environ.get("MLFLOW_S3_ENDPOINT_URL", ""))
        if endpoint.hostname:
            where = (endpoint.hostname, endpoint.port or (443 if endpoint.scheme == "https" else 80))
            try:
                socket.create_connection(where, timeout=CHECK_SECONDS).close()
            except OSError as error:
                raise Failed(f"artifacts in {self.uri}: {where[0]}:{where[1]} does not answer ({error})") from None

    def _client(self) -> "BaseClient":
        from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

        os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")
        return S3ArtifactRepository(f"s3://{self.bucket}")._get_s3_client()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the bucket says into Failed."""
        try:
            from boto3.exceptions import Boto3Error
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            install = "install it with `pip install 'ttt-mlflow[s3]'`"
            raise Refused(f"artifacts in {self.uri}: boto3 is not installed; {install}") from None
        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise Failed(f"artifacts in {self.uri}: {one_line(error)}") from None


def written(source: IO[bytes], target: Path) -> str:
    """Write a new file, and return its SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb") as file:
        while part := source.read(CHUNK):
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # removed meanwhile, or nothing was ever written
        raise Failed(f"{error.filename}: {error.strerror}")

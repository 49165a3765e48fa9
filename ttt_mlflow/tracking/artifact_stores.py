"""Where the artifacts of a run are: writes them, lists them, and reads them back, so that what arrived can be checked.

MLflow takes any answer with status 200 for success. A proxy that lost its login answers so, with a web page.
"""

import hashlib
import posixpath
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

CHUNK = 1 << 20
API = "/mlflow-artifacts/artifacts"
PAGES = (".html", ".htm")  # artifacts that are web pages themselves
S3_PART = 8 << 20  # bytes of each part in which boto3 sends a large file


class WebPage(OSError):
    """A server answered with a web page in the place of what it was asked for."""


class ArtifactStore(Protocol):
    """The artifacts of one run."""

    def listed(self, folder: str) -> dict[str, int | None]:
        """The files directly in ``folder`` ("": the run's), by path in the run, with their sizes where told."""

    def put(self, source: Path, path: str) -> None:
        """Write ``source`` as ``path``."""

    def sha256(self, path: str) -> str:
        """Read ``path`` back."""

    def fetched(self, path: str, folder: Path) -> Path | None:
        """A file on this disk, in ``folder`` if it has to be downloaded, with the content of ``path``; None: none."""

    def told(self, path: str, source: Path) -> bool | None:
        """Whether ``path`` has the content of ``source`` by the store's own checksum. None: it tells none."""


def store_of(artifact_uri: str, tracking_uri: str) -> ArtifactStore:
    """The artifact store of a run, by the address of its artifacts."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
    from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

    uri = add_databricks_profile_info_to_artifact_uri(artifact_uri, tracking_uri)
    repository = get_artifact_repository(uri, tracking_uri=tracking_uri)
    if isinstance(repository, HttpArtifactRepository):
        return HttpStore(repository)
    if isinstance(repository, LocalArtifactRepository):
        return FolderStore(repository)
    if type(repository) is S3ArtifactRepository:
        return S3Store(repository)
    return OtherStore(repository)


class OtherStore:
    """A store that MLflow's own classes write and read."""

    def __init__(self, repository: "ArtifactRepository") -> None:
        self._repository = repository

    def listed(self, folder: str) -> dict[str, int | None]:
        return {one.path: one.file_size for one in self._repository.list_artifacts(folder or None) if not one.is_dir}

    def put(self, source: Path, path: str) -> None:
        folder, name = posixpath.split(path)
        with tempfile.TemporaryDirectory() as staging:
            # these classes take the file's own name
            named = source if source.name == name else Path(shutil.copyfile(source, Path(staging, name)))
            self._repository.log_artifact(str(named), folder or None)

    def sha256(self, path: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            return sha256_of(Path(self._repository.download_artifacts(path, folder)))

    def fetched(self, path: str, folder: Path) -> Path | None:
        there = path in self.listed(posixpath.dirname(path))
        return Path(self._repository.download_artifacts(path, str(folder))) if there else None

    def told(self, path: str, source: Path) -> bool | None:
        return None


class FolderStore(OtherStore):
    """A folder that this process can read."""

    _repository: "LocalArtifactRepository"

    def sha256(self, path: str) -> str:
        return sha256_of(Path(self._repository.get_local_path(path)))

    def told(self, path: str, source: Path) -> bool | None:
        return self.sha256(path) == sha256_of(source)


class S3Store(OtherStore):
    """An S3 bucket that this process writes to itself."""

    _repository: "S3ArtifactRepository"

    def told(self, path: str, source: Path) -> bool | None:
        """By the ETag: the MD5 of the file, or of the MD5s of its parts. One that KMS encrypted has none of these."""
        bucket, key = self._repository.parse_s3_compliant_uri(self._repository.artifact_uri)
        head: dict[str, Any] = self._repository._get_s3_client().head_object(Bucket=bucket, Key=f"{key}/{path}")
        if "kms" in head.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in head:
            return None
        etag = str(head["ETag"]).strip('"')
        size = source.stat().st_size
        if "-" in etag and etag.partition("-")[2] != str(-(-size // S3_PART)):
            return None  # sent in parts of another size
        with source.open("rb") as file:
            return etag == _etag(_chunks(file, S3_PART), in_parts="-" in etag)


class HttpStore:
    """A server that passes artifacts on to where it keeps them."""

    def __init__(self, repository: "HttpArtifactRepository") -> None:
        self._repository = repository
        self._base, _, tail = repository.artifact_uri.partition(API)
        self._root = tail.strip("/")

    def listed(self, folder: str) -> dict[str, int | None]:
        path = posixpath.join(self._root, folder) if folder else self._root
        answer = _request(self._base, API, "GET", "a listing of artifacts", params={"path": path})
        files = [one for one in answer.json().get("files", []) if not one["is_dir"]]
        return {posixpath.join(folder, one["path"]): int(one.get("file_size", 0)) for one in files}

    def put(self, source: Path, path: str) -> None:
        if self._repository._should_multipart_upload(str(source)):  # straight to the object store behind the server
            self._repository.log_artifact(str(source), posixpath.dirname(path) or None)
            return
        from mlflow.utils.mime_type_utils import _guess_mime_type

        headers = {"Content-Type": _guess_mime_type(path)}
        with source.open("rb") as file:
            _request(self._repository.artifact_uri, _place(path), "PUT", "an upload", data=file, extra_headers=headers)

    def sha256(self, path: str) -> str:
        uri, what = self._repository.artifact_uri, "a download"
        with _request(uri, _place(path), "GET", what, page=path.endswith(PAGES), stream=True) as answer:
            return _sha256(answer.iter_content(CHUNK))

    def fetched(self, path: str, folder: Path) -> Path | None:
        """One request, where MLflow's client makes five. Of what the server says, only the content counts."""
        from requests import HTTPError

        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        uri, what = self._repository.artifact_uri, "a download"
        try:
            answer = _request(uri, _place(path), "GET", what, page=path.endswith(PAGES), stream=True)
        except HTTPError:
            if path in self.listed(posixpath.dirname(path)):
                raise
            return None
        with answer, target.open("wb") as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
        return target

    def told(self, path: str, source: Path) -> bool | None:
        return None


def sha256_of(path: Path) -> str:
    """The checksum of a file on this disk."""
    with path.open("rb") as file:
        return _sha256(_chunks(file, CHUNK))


def _request(base: str, place: str, method: str, what: str, page: bool = False, **more: Any) -> Any:
    """The answer of the server with the user's credentials, as MLflow asks. page: a web page is what is asked for."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

    answer = http_request(get_default_host_creds(base), place, method, **more)
    augmented_raise_for_status(answer)
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "text/html" and not page:
        answered = urlsplit(answer.url)
        port = f":{answered.port}" if answered.port else ""
        raise WebPage(
            f"{answered.scheme}://{answered.hostname}{port} answered {what} with a web page ({kind}), "
            "as a proxy's login page does"
        )
    return answer


def _place(path: str) -> str:
    return f"/{quote(path)}"


def _chunks(file: Any, size: int) -> Iterator[bytes]:
    while chunk := file.read(size):
        yield chunk


def _sha256(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _etag(parts: Iterable[bytes], in_parts: bool) -> str:
    whole = hashlib.md5(usedforsecurity=False)
    count = 0
    for part in parts:
        whole.update(hashlib.md5(part, usedforsecurity=False).digest() if in_parts else part)
        count += 1
    return f"{whole.hexdigest()}-{count}" if in_parts else whole.hexdigest()

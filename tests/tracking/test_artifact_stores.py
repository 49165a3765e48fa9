"""What the stores of artifacts tell about a file."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttt_mlflow.tracking import artifact_stores
from ttt_mlflow.tracking.artifact_stores import S3Store


def bucket_with(head: dict[str, Any]) -> S3Store:
    """An S3 store that answers with ``head`` for every object."""
    repository = SimpleNamespace(
        artifact_uri="s3://bucket/1/run/artifacts",
        parse_s3_compliant_uri=lambda uri: tuple(uri.removeprefix("s3://").split("/", 1)),
        _get_s3_client=lambda: SimpleNamespace(head_object=lambda Bucket, Key: head),
    )
    return S3Store(repository)  # type: ignore[arg-type]


def md5(data: bytes) -> Any:
    return hashlib.md5(data, usedforsecurity=False)


@pytest.mark.parametrize(
    ("etag", "told"),
    [
        (md5(b"0123456789").hexdigest(), True),
        (md5(b"another").hexdigest(), False),
        (f"{md5(md5(b'0123').digest() + md5(b'4567').digest() + md5(b'89').digest()).hexdigest()}-3", True),
        (f"{md5(b'another').hexdigest()}-3", False),
        (f"{md5(b'parts of another size').hexdigest()}-2", None),
    ],
)
def test_the_etag_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etag: str, told: bool | None) -> None:
    monkeypatch.setattr(artifact_stores, "S3_PART", 4)
    source = tmp_path / "trace.json"
    source.write_bytes(b"0123456789")
    assert bucket_with({"ETag": f'"{etag}"'}).told("trace.json", source) is told


@pytest.mark.parametrize("head", [{"ServerSideEncryption": "aws:kms"}, {"SSECustomerAlgorithm": "AES256"}])
def test_an_encrypted_object_has_no_checksum_of_its_content(tmp_path: Path, head: dict[str, str]) -> None:
    (tmp_path / "x").write_bytes(b"0")
    assert bucket_with({"ETag": '"0"', **head}).told("x", tmp_path / "x") is None

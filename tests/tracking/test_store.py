"""Tracking URIs as people write them: accepted where MLflow accepts them, else refused in one line, never a hang."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.errors import BadInput
from ttt_mlflow.tracking.store import check_place, resolve_tracking_uri


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("htpp://team:5000", "MLflow knows no scheme htpp; it takes http, https, sqlite, postgresql"),
        ("postgres://me@team/x", "MLflow knows no scheme postgres"),
        ("s3://bucket/x", "MLflow knows no scheme s3"),
        ("localhost:5000", "no scheme; for a server, write http://localhost:5000"),
        ("127.0.0.1:5000/mlflow", "no scheme; for a server, write http://127.0.0.1:5000/mlflow"),
        ("http:/team:5000", "no host; in a user name or password, write @ : / ? # [ ] as"),
        ("http://", "give http://host:port"),
        ("http://team:99999", "the host or the port is not one"),
        ("http://[::1", "the host or the port is not one"),
        ("http://a b:5000", "no host"),
    ],
)
def test_what_is_no_store(uri: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        resolve_tracking_uri(uri)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"tracking_uri={uri}: ")
    assert said in line


@pytest.mark.parametrize(
    "uri",
    [
        *("http://team:5000", "HTTP://team:5000", "https://me@team/mlflow", "http://[::1]:5000", "databricks"),
        *("databricks://profile", "postgresql+psycopg://me@team/x", "sqlite:////tmp/x.db", "mysql://me@team/x"),
    ],
)
def test_what_mlflow_takes(uri: str) -> None:
    assert resolve_tracking_uri(uri) == uri


@pytest.mark.parametrize("uri", ["file:/tmp/x", "FILE:///tmp/x", "./mlruns", "/tmp/mlruns"])
def test_a_folder_is_told_what_to_use_instead(uri: str) -> None:
    told = check_place(resolve_tracking_uri(uri))
    assert told
    assert "a folder is not supported as a tracking store: use http://host:port" in told


@pytest.mark.properties
@given(uri=st.text(alphabet="htpsqlie:/+@.[]#?%\\ a1\n", max_size=24))
def test_any_uri_is_taken_or_refused_in_one_line(uri: str) -> None:
    try:
        assert resolve_tracking_uri(uri)
    except BadInput as refused:
        lines = str(refused).splitlines()
        assert len(lines) == 1 or "\n" in uri

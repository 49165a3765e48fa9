"""Tracking URIs as people write them: accepted where MLflow accepts them, else refused in one line, never a hang."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.errors import BadInput
from ttt_mlflow.tracking.store import NO_STORE, check_place, resolve_destination, resolve_tracking_uri


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


@pytest.mark.parametrize(
    ("uri", "todo"),
    [
        *((uri, "use http://host:port or sqlite:///") for uri in ("./mlruns", "file:/x", ":::", "/tmp/mlruns", " ")),
        *(
            (uri, "use a file, as in sqlite:///")
            for uri in ("sqlite://", "sqlite:///:memory:", "sqlite://[", "sqlite:")
        ),
        ("sqlite:////tmp", "use a file in it, as in sqlite:////tmp/mlflow.db"),
        (f"sqlite:///{__file__}", "is not an SQLite database: use another file"),
    ],
)
def test_a_store_that_can_never_take_a_record_is_no_destination(uri: str, todo: str) -> None:
    with pytest.raises(BadInput) as refused:
        resolve_destination(uri)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"tracking_uri={uri}: ")
    assert todo in line


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:1",
        "postgresql://127.0.0.1:1/x",
        "sqlite:////dev/null/mlflow.db",
        "databricks",
        "uc:x",
        NO_STORE,
    ],
)
def test_a_store_that_is_only_away_is_a_destination(uri: str) -> None:
    assert resolve_destination(uri) == uri


@pytest.mark.properties
@given(uri=st.text(alphabet="htpsqlie:/+@.[]#?%\\ a1\n", max_size=24))
def test_any_uri_is_taken_or_refused_in_one_line(uri: str) -> None:
    try:
        assert resolve_tracking_uri(uri)
    except BadInput as refused:
        lines = str(refused).splitlines()
        assert len(lines) == 1 or "\n" in uri

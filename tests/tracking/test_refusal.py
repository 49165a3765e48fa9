"""Who was refused, told from what MLflow's client sends and from how it tells of an answer."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException, RestException

from tests.project import free_port
from tests.proxies import Answer, proxy
from ttt_mlflow.tracking.refusal import Refusal, sent_to, takes_basic, why_refused
from ttt_mlflow.tracking.store import check_tracking

URI = "http://mlflow.example:5000"
SECRET = "Xq7rutabaga9012"
BASIC = Answer(401, b"who?", 'text/plain\r\nWWW-Authenticate: Basic realm="mlflow"')


def failed(status: int, endpoint: str = "/api/2.0/mlflow/runs/create", body: str = "Permission denied") -> Exception:
    """As MLflow's client tells of an answer that is no JSON."""
    return MlflowException(
        f"API request to endpoint {endpoint} failed with error code {status} != 200. Response body: '{body}'"
    )


def sign_in(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)


@pytest.mark.parametrize(
    ("variables", "uri", "kind"),
    [
        ({}, URI, "nothing"),
        ({"USERNAME": "ann"}, URI, "half"),
        ({"PASSWORD": SECRET}, URI, "half"),
        ({"USERNAME": "ann", "PASSWORD": SECRET}, URI, "user"),
        ({"TOKEN": SECRET}, URI, "token"),
        ({"TOKEN": SECRET, "USERNAME": "ann"}, URI, "token"),
        ({"TOKEN": SECRET}, f"http://ann:{SECRET}@mlflow.example", "address"),
        ({"USERNAME": "ann", "PASSWORD": SECRET}, f"http://{SECRET}@mlflow.example", "half an address"),
        ({"USERNAME": "ann", "PASSWORD": SECRET}, None, "user"),
    ],
)
def test_what_is_sent(variables: dict[str, str], uri: str | None, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(monkeypatch, **variables)
    assert sent_to(uri).kind == kind
    for status in (401, 403):
        line = why_refused(failed(status), uri)
        assert line
        assert len(line.splitlines()) == 1
        assert f"refused with {status}: " in line
        assert SECRET not in line


def test_an_entry_for_the_host_goes_before_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = tmp_path / "netrc"
    entries.write_text(f"machine mlflow.example login ann password {SECRET}\n")
    entries.chmod(0o600)
    monkeypatch.setenv("NETRC", str(entries))
    sign_in(monkeypatch, USERNAME="bob", PASSWORD=SECRET)
    assert sent_to(URI).kind == "netrc"
    line = why_refused(failed(401), URI)
    assert line
    assert "~/.netrc" in line


def test_both_a_user_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(monkeypatch, USERNAME="ann", PASSWORD=SECRET, TOKEN=SECRET)
    line = why_refused(failed(401), URI)
    assert line
    assert "the user ann" in line
    assert "MLFLOW_TRACKING_TOKEN was not sent, because a user is set" in line


def test_a_name_that_may_be_a_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(monkeypatch, USERNAME="ghp_" + "0a" * 20, PASSWORD=SECRET)
    for status in (401, 403):
        line = why_refused(failed(status), URI)
        assert line
        assert "ghp_" not in line


@pytest.mark.parametrize(
    ("endpoint", "doing"),
    [
        ("/api/2.0/mlflow/runs/create", "make runs in this experiment"),
        ("/api/2.0/mlflow/runs/delete", "delete runs in this experiment"),
        ("/api/2.0/mlflow/experiments/set-experiment-tag", "write the saved views of this experiment"),
        ("/api/2.0/mlflow/runs/set-tag", "write to this run"),
        ("/api/2.0/mlflow-artifacts/artifacts/1/x", "reach the artifacts of this experiment so"),
        ("/api/2.0/mlflow/something/new", "do this here"),
    ],
)
def test_what_is_not_allowed(endpoint: str, doing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(monkeypatch, USERNAME="ann", PASSWORD=SECRET)
    line = why_refused(failed(403, endpoint), URI)
    assert line
    assert f"the user ann may not {doing}; ask whoever manages the experiment" in line


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (RestException({"error_code": "PERMISSION_DENIED", "message": "not yours"}), True),
        (RestException({"error_code": "UNAUTHENTICATED", "message": "who?"}), True),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}), False),
        (failed(404), False),
        (failed(500), False),
        (OSError("403"), False),
    ],
)
def test_what_is_a_refusal(error: Exception, refused: bool) -> None:
    assert (why_refused(error, URI) is not None) is refused


@given(st.text(), st.integers(0, 999))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_is_told_in_one_line_or_is_no_refusal(body: str, status: int) -> None:
    line = why_refused(failed(status, body=body))
    assert line is None or len(line.splitlines()) == 1
    assert (line is not None) == (status in (401, 403))


@pytest.mark.parametrize("asked", [BASIC, Answer(401), Answer(404)])
def test_a_server_that_breaks_on_a_token(asked: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow 3.17 with its accounts and their cache answers 500. Only what it takes tells this from a broken server."""
    sign_in(monkeypatch, TOKEN=SECRET)
    with proxy(lambda method, path: Answer(500) if method == "POST" else asked) as server:
        reason = check_tracking(server.uri)
    assert reason
    assert isinstance(reason, Refusal) is (asked is BASIC)
    assert ("this server takes a user and a password" in reason) is (asked is BASIC)


def test_nobody_answers_the_question_what_is_taken() -> None:
    assert not takes_basic(f"http://127.0.0.1:{free_port()}")

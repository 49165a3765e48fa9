"""What the doctor finds out about a server, from answers of all kinds."""

import json

import mlflow
import pytest

from tests.project import free_port
from tests.proxies import LOGIN_PAGE, Answer, proxy
from ttt_mlflow.tracking import server_checks
from ttt_mlflow.tracking.server_checks import Lacking, check_account, check_tls, check_version, may_delete

BASIC = Answer(401, b"who?", 'text/plain\r\nWWW-Authenticate: Basic realm="mlflow"')


def lacking(check: object, uri: str) -> Lacking:
    assert callable(check)
    with pytest.raises(Lacking) as raised:
        check(uri)
    return raised.value


def text(said: str) -> Answer:
    return Answer(200, said.encode(), "text/plain")


def test_a_version() -> None:
    with proxy(lambda method, path: text(mlflow.__version__)) as server:
        assert check_version(server.uri) == f"answers; MLflow {mlflow.__version__}"
        assert server.requests == [("GET", "/version")]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (text("2.9.1"), "its MLflow 2.9.1 is older"),
        (Answer(200, LOGIN_PAGE, "text/html"), "it does not answer as an MLflow server"),
        (Answer(404, LOGIN_PAGE, "text/html"), "it does not answer as an MLflow server"),
        (Answer(503), "it does not answer as an MLflow server"),
    ],
)
def test_an_answer_that_is_not_right(answer: Answer, found: str) -> None:
    with proxy(lambda method, path: answer) as server:
        said = lacking(check_version, server.uri)
    assert found in said.found
    assert said.remedy
    assert said.fatal is ("older" not in found)


def test_a_version_that_is_told_to_friends_only() -> None:
    with proxy(lambda method, path: BASIC) as server:
        assert check_version(server.uri) == "answers; it tells its version only to whom it knows"


def test_a_dead_server() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    said = lacking(check_version, uri)
    assert "does not answer as an MLflow server" in said.found
    assert said.fatal


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.3.2.1"])
def test_no_tls_on_this_machine(host: str) -> None:
    assert "none needed" in check_tls(f"http://{host}:5000")


@pytest.mark.parametrize("host", ["mlflow.example", "10.0.0.7", "localhost.example"])
def test_no_tls_on_a_network(host: str) -> None:
    said = lacking(check_tls, f"http://{host}:5000")
    assert "passwords" in said.found
    assert not said.fatal


def test_tls_with_something_that_speaks_none() -> None:
    with proxy(lambda method, path: text("3.17.2")) as server:
        said = lacking(check_tls, server.uri.replace("http:", "https:"))
    assert said.fatal
    assert said.found.startswith("no connection (")


def test_accounts() -> None:
    experiments = Answer(200, b'{"experiments": []}')
    with proxy(lambda method, path: experiments) as server:
        assert "asks for no user" in check_account(server.uri)
    with proxy(lambda method, path: experiments if method == "POST" else BASIC) as server:
        assert check_account(server.uri) == "signed in"
    with proxy(lambda method, path: BASIC) as server:
        said = lacking(check_account, server.uri)
    assert said.found == "refused with 401: no user and no token were sent"
    assert said.remedy
    assert "MLFLOW_TRACKING_USERNAME" in said.remedy


def test_the_user_that_signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "Xq7rutabaga9012")
    with proxy(lambda method, path: Answer(200, b'{"experiments": []}') if method == "POST" else BASIC) as server:
        assert check_account(server.uri) == "signed in as ann"


@pytest.mark.parametrize(
    ("answer", "may"),
    [
        (Answer(200, json.dumps({"permission": "MANAGE", "allowed": True}).encode()), True),
        (Answer(200, json.dumps({"permission": "EDIT", "allowed": True}).encode()), False),
        (Answer(404), True),  # no accounts of MLflow's
        (Answer(200, LOGIN_PAGE, "text/html"), True),
        (Answer(200, b"[]"), True),
    ],
)
def test_who_may_delete(answer: Answer, may: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(lambda method, path: answer) as server:
        assert may_delete(server.uri, "7"), "nobody has signed in: no accounts to ask"
        assert server.requests == []
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "Xq7rutabaga9012")
        assert may_delete(server.uri, "7") is may
        ((method, path),) = server.requests
    assert method == "GET"
    assert path.startswith(server_checks.PERMISSION)
    assert "username=ann" in path
    assert "resource_id=7" in path

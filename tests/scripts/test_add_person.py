"""scripts/server/add_person.sh: what stands in its way is one line. test_server.py has the real server."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import add_person
import passwords
import pytest

from tests.project import ROOT, environment, free_port, run
from ttt_mlflow.errors import BadInput

ADMIN = {"username": "admin", "is_admin": True}
PERSONS = "annas-long-secret"


@contextmanager
def answering(status: int, content: object) -> Iterator[tuple[str, list[str | None]]]:
    """A server that always answers so, and the authorizations that it got."""
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _admin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.mlflow/credentials
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of-the-admin-1")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)


def added(uri: str, *words: str) -> list[str]:
    return add_person.add(add_person.parse(["anna", "--tracking-uri", uri, *words]))


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (404, {}, "this server has no accounts; start it with `./scripts/server.sh --accounts`"),
        (401, "You are not authenticated.", "it does not know the admin admin with this password (401)"),
        (418, {}, "it answers 418, not as MLflow's server with accounts does"),
        (200, {"user": {"username": "admin", "is_admin": False}}, "admin is no admin, and only an admin adds a person"),
    ],
)
def test_an_admin_who_is_none(status: int, content: object, said: str) -> None:
    with answering(status, content) as (place, _), pytest.raises(passwords.Refused) as refused:
        added(f"http://{place}")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_a_terminal_a_password_has_to_be_given() -> None:
    with answering(200, {"user": ADMIN}) as (place, _), pytest.raises(passwords.Refused) as refused:
        added(f"http://{place}")
    assert "no password of anna; give --password-file FILE or set TTT_MLFLOW_PERSON_PASSWORD" in str(refused.value)


def test_the_credentials_in_a_uri_are_the_admins_alone() -> None:
    """requests would go on to send them, and the trial run would be the admin's."""
    with answering(401, {}) as (place, asked), pytest.raises(passwords.Refused) as refused:
        added(f"http://root:of-the-root-12@{place}")
    assert f"http://{place}: it does not know the admin root" in str(refused.value)
    assert asked == ["Basic cm9vdDpvZi10aGUtcm9vdC0xMg=="]


def test_a_store_without_a_server_has_no_accounts(tmp_path: Path) -> None:
    with pytest.raises(passwords.Refused, match="no server; give --tracking-uri"):
        added(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(BadInput, match="the host or the port is not one"):
        added("http://host:port")


@pytest.mark.parametrize("option", ["--password", "--admin-password", "--password=x"])
def test_no_option_takes_a_password(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        add_person.parse(["anna", option, "x"])
    assert ended.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.long
def test_as_a_command_the_reason_is_one_line() -> None:
    script = [str(ROOT / "scripts/server/add_person.sh"), "anna", "--tracking-uri", f"http://127.0.0.1:{free_port()}"]
    env = environment() | {"MLFLOW_TRACKING_PASSWORD": "of-the-admin-1", "TTT_MLFLOW_PERSON_PASSWORD": PERSONS}
    done = run(script, env | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: the server does not answer as an MLflow server")
    assert PERSONS not in line

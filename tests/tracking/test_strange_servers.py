"""Servers that answer strangely: accepted where MLflow's client works with them, else one line within seconds."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.project import free_port
from tests.proxies import LOGIN_PAGE, SILENCE, Answer, proxy
from ttt_mlflow.tracking.store import check_tracking, check_workspace, resolve_tracking_uri

EXPERIMENTS = json.dumps({"experiments": [{"experiment_id": "0", "name": "Default"}]}).encode()
RIGHT = Answer(200, EXPERIMENTS)


def redirect(status: int, to: str) -> Answer:
    return Answer(status, b"", f"text/html\r\nLocation: {to}")


def one_line(reason: str | None) -> str:
    assert reason
    assert len(reason.splitlines()) == 1
    return reason


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(503, b"Service Unavailable", "text/plain"), "it does not answer as an MLflow server"),
        (Answer(500, b"", "text/plain"), "it does not answer as an MLflow server"),
        (Answer(429, b"slow down", "text/plain"), "it does not answer as an MLflow server"),
        (Answer(200, LOGIN_PAGE, "text/html"), "it does not answer as an MLflow server"),
        (Answer(204, b"", "text/plain"), "it does not answer as an MLflow server"),
        (
            redirect(302, "/login"),
            "it redirects to another address (302), and what is sent is lost on the way; give the",
        ),
        (redirect(301, "https://mlflow.example/"), "it redirects to another address (301)"),
        (redirect(303, "/"), "it redirects to another address (303)"),
        (redirect(307, "/again"), "it does not answer as an MLflow server"),
        (redirect(308, "ftp://elsewhere/"), "it does not answer as an MLflow server"),
        (SILENCE, "it does not answer as an MLflow server"),
    ],
    ids=lambda value: f"{value.status} {value.kind[-30:]}" if isinstance(value, Answer) else "",
)
def test_what_is_no_mlflow_server_is_one_line(answer: Answer, said: str) -> None:
    began = time.monotonic()
    with proxy(lambda method, path: answer) as server:
        assert one_line(check_tracking(server.uri)).startswith(said)
    assert time.monotonic() - began < 20, "a bound of a hang, not a time that is measured"


def test_a_redirect_that_keeps_the_request_is_followed() -> None:
    with (
        proxy(lambda method, path: RIGHT) as behind,
        proxy(lambda method, path: redirect(308, behind.uri + path)) as server,
    ):
        assert check_tracking(server.uri) is None
        server.decide = lambda method, path: redirect(307, behind.uri + path)
        assert check_tracking(server.uri) is None


@pytest.mark.parametrize("form", ["{}", " {}\n", "\t{}/ ", "{}/"])
def test_white_space_around_an_address(form: str) -> None:
    with proxy(lambda method, path: RIGHT) as server:
        for uri in (server.uri, server.uri.replace("http:", "HTTP:")):
            assert check_tracking(resolve_tracking_uri(form.format(uri))) is None


def test_nobody_listens() -> None:
    assert "does not answer" in one_line(check_tracking(f"http://127.0.0.1:{free_port()}"))
    assert "does not answer" in one_line(check_tracking("http://no-such-host.invalid:5000"))


def test_a_workspace_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = Answer(403, json.dumps({"error_code": "PERMISSION_DENIED", "message": "the token is not known"}).encode())
    monkeypatch.setenv("DATABRICKS_TOKEN", "made-up")
    with proxy(lambda method, path: RIGHT) as server:
        monkeypatch.setenv("DATABRICKS_HOST", server.uri)
        assert check_workspace("databricks") is None
        assert any("/experiments/search" in path for _, path in server.requests)
        server.decide = lambda method, path: denied
        assert one_line(check_workspace("databricks"))


# Certificates


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(EXPERIMENTS)))
        self.end_headers()
        self.wfile.write(EXPERIMENTS)

    do_GET = do_POST

    def log_message(self, *about: object) -> None:
        """Nothing is printed."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody but itself has signed, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now, day = datetime.now(UTC), timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    file.write_bytes(key.private_bytes(*form) + made.public_bytes(serialization.Encoding.PEM))
    return file


@contextmanager
def over_tls(certificate: Path, asks_for_one: bool = False) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if asks_for_one:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_certificate_that_nobody_knows_is_refused(certificate: Path) -> None:
    with over_tls(certificate) as uri:
        assert "certificate" in one_line(check_tracking(uri)).lower()


@pytest.mark.parametrize("setting", ["MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH"])
def test_a_server_that_mlflow_was_told_to_trust(
    setting: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, "true" if "INSECURE" in setting else str(certificate))
    with over_tls(certificate) as uri:
        assert check_tracking(uri) is None


def test_a_server_that_asks_for_a_certificate(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    with over_tls(certificate, asks_for_one=True) as uri:
        assert "does not answer as an MLflow server" in one_line(check_tracking(uri))
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(certificate))
        assert check_tracking(uri) is None


@pytest.mark.parametrize("setting", ["MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"])
def test_a_certificate_that_is_not_there(
    setting: str, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, str(tmp_path / "none.pem"))
    with over_tls(certificate) as uri:
        assert "none.pem" in one_line(check_tracking(uri))

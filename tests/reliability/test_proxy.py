"""The faulty proxy does what it says: a trial whose faults do not happen proves nothing."""

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.reliability.proxy import LOGIN_PAGE, Fault, FaultyProxy, Kind

BODY = bytes(range(256)) * 100


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was sent."""

    heard: list[bytes]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    Echo.heard = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def put(port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("PUT", "/a/path?with=query", BODY)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_without_a_fault_bytes_arrive_both_ways(upstream: ThreadingHTTPServer) -> None:
    with FaultyProxy(upstream.server_port) as proxy:
        assert put(proxy.port) == (200, BODY)
        assert proxy.requests == [("PUT", "/a/path?with=query")]
    assert Echo.heard == [BODY]


@pytest.mark.parametrize(("kind", "heard"), [("lost", True), ("unsent", False)])
def test_no_answer_comes(upstream: ThreadingHTTPServer, kind: Kind, heard: bool) -> None:
    with FaultyProxy(upstream.server_port, lambda request: Fault(kind)) as proxy, pytest.raises(ConnectionError):
        put(proxy.port)
    assert bool(Echo.heard) == heard


def test_a_part_of_the_answer_comes(upstream: ThreadingHTTPServer) -> None:
    with FaultyProxy(upstream.server_port, lambda request: Fault("cut", share=0.5)) as proxy:
        with pytest.raises(http.client.IncompleteRead) as cut:
            put(proxy.port)
        assert 0 < len(cut.value.partial) < len(BODY)
        assert proxy.faults == {"cut": 1}
    assert Echo.heard == [BODY]


@pytest.mark.parametrize(("kind", "status"), [("refused", 503), ("login page", 200)])
def test_another_answers(upstream: ThreadingHTTPServer, kind: Kind, status: int) -> None:
    with FaultyProxy(upstream.server_port, lambda request: Fault(kind)) as proxy:
        assert put(proxy.port)[0] == status
        assert put(proxy.port)[1] == (LOGIN_PAGE if kind == "login page" else b"no server is available")
    assert Echo.heard == []


def test_an_answer_comes_later(upstream: ThreadingHTTPServer) -> None:
    with FaultyProxy(upstream.server_port, lambda request: Fault("delayed", seconds=0.5)) as proxy:
        began = time.monotonic()
        assert put(proxy.port) == (200, BODY)
        assert time.monotonic() - began >= 0.5


def test_a_server_that_is_gone_is_a_connection_that_ends() -> None:
    with FaultyProxy(1) as proxy, pytest.raises(ConnectionError):
        put(proxy.port)

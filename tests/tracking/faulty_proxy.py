"""A proxy before a tracking server that counts requests and does to some of them what broken proxies do."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

PAGE = b"<!doctype html><html><body><form>Please log in</form></body></html>"
# page: answer with a login page. empty, half, other: pass on a body without content, half of it, or other content.
# gone: pass the request on and lose the answer.
Fault = Callable[[str, str], str | None]  # of a method and a path


class FaultyProxy:
    """Passes requests on to ``server``. requests: method and path of each."""

    def __init__(self, server: str) -> None:
        self.server = urlsplit(server)
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault = lambda method, path: None
        self.uri = ""

    @property
    def api_requests(self) -> list[tuple[str, str]]:
        """The requests that are not about artifacts."""
        return [(method, path) for method, path in self.requests if "artifacts" not in path]

    def uploads(self) -> list[str]:
        return [path for method, path in self.requests if method == "PUT"]


@contextmanager
def faulty_proxy(server: str) -> Iterator[FaultyProxy]:
    """A proxy that passes everything on until it is given a fault."""
    proxy = FaultyProxy(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self._body()
            proxy.requests.append((self.command, self.path))
            fault = proxy.fault(self.command, self.path)
            if fault == "page":
                self._answer(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
                return
            body = {"empty": b"", "half": body[: len(body) // 2], "other": bytes(len(body))}.get(fault or "", body)
            connection = http.client.HTTPConnection(str(proxy.server.hostname), proxy.server.port, timeout=60)
            dropped = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            content = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() in ("content-type", "location")}
            connection.close()
            if fault == "gone":
                self.close_connection = True
                return
            self._answer(answer.status, kept, content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        Thread(target=listener.serve_forever, daemon=True).start()
        proxy.uri = f"http://127.0.0.1:{listener.server_port}"
        try:
            yield proxy
        finally:
            listener.shutdown()

"""A proxy between a run and its tracking server that does what goes wrong on the way."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

LOGIN_PAGE = b"<html><body>Please log in</body></html>"


@dataclass(frozen=True)
class Answer:
    """An answer that the proxy gives itself. None: it never answers, after ``takes`` bytes of the request's body."""

    status: int | None = None
    body: bytes = b""
    kind: str = "application/json"
    takes: int = 0


SILENCE = Answer()
Decide = Callable[[str, str], Answer | None]  # method and path; None: the server answers


@dataclass
class Proxy:
    """A proxy that listens. requests: method and path of each request. decide: may be changed at any time."""

    uri: str
    decide: Decide
    requests: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def proxy(decide: Decide, server_uri: str | None = None) -> Iterator[Proxy]:
    """A proxy before the server, on the loopback, one request a connection."""
    ended = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        made = Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}", decide)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        def serve(client: socket.socket) -> None:
            with closing(client), suppress(OSError, ValueError):
                _serve(client, made, server_uri, ended)

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield made
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)


def _serve(client: socket.socket, made: Proxy, server_uri: str | None, ended: threading.Event) -> None:
    head, _, body = _until_blank_line(client).partition(b"\r\n\r\n")
    method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
    made.requests.append((method, path))
    answer = made.decide(method, path)
    if answer is None:
        assert server_uri
        host, _, port = server_uri.removeprefix("http://").partition(":")
        with closing(socket.create_connection((host, int(port)))) as server:
            server.sendall(_one_answer(head) + b"\r\n\r\n" + body)
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            _copy(server, client)
    elif answer.status is None:
        taken = len(body)
        while taken < answer.takes and (more := client.recv(min(8192, answer.takes - taken))):
            taken += len(more)
        ended.wait()
    else:
        length = _length(head)
        while len(body) < length and (more := client.recv(65536)):
            body += more
        lines = [f"HTTP/1.1 {answer.status} Answer", f"Content-Type: {answer.kind}"]
        lines += [f"Content-Length: {len(answer.body)}", "Connection: close", "", ""]
        client.sendall("\r\n".join(lines).encode() + answer.body)


def _length(head: bytes) -> int:
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return int(fields.get(b"content-length", 0))


def _until_blank_line(client: socket.socket) -> bytes:
    read = b""
    while b"\r\n\r\n" not in read:
        if not (more := client.recv(4096)):
            raise OSError("the client went away")
        read += more
    return read


def _one_answer(head: bytes) -> bytes:
    """The request's head, so that the server closes the connection after its answer."""
    kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*kept, b"Connection: close"])


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while more := source.recv(65536):
            sink.sendall(more)

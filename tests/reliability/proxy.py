"""A proxy between clients and a tracking server, that does to their connections what bad networks do.

One connection carries one request, so that each can have its own fault.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.project import free_port

Kind = Literal["cut", "delayed", "lost", "refused", "unsent", "login page"]
KINDS: tuple[Kind, ...] = ("cut", "delayed", "lost", "refused", "unsent", "login page")
LOGIN_PAGE = b"<!doctype html><title>Log in</title><form action=/login method=post><input name=user></form>"


@dataclass(frozen=True)
class Request:
    """What a client asked for. number: how many requests came before it."""

    number: int
    method: str
    path: str
    head: bytes
    body: bytes


@dataclass(frozen=True)
class Fault:
    """What happens to one request or to its answer.

    cut: the server did it, the client gets a part of the answer (``share`` of its bytes). delayed: the answer comes
    after ``seconds``. lost: the server did it, the client gets no answer. refused: status 503, the server never hears
    of it. unsent: the connection ends before the server hears of it. login page: HTML with status 200, and the server
    never hears of it.
    """

    kind: Kind
    share: float = 0.5
    seconds: float = 30.0


Choose = Callable[[Request], Fault | None]


class FaultyProxy:
    """Listens on a port of its own; runs in a thread of its own. ``choose`` says what happens to a request."""

    def __init__(self, upstream_port: int, choose: Choose = lambda request: None) -> None:
        self.port, self.choose = free_port(), choose
        self.requests: list[tuple[str, str]] = []  # method and path, in the order of arrival
        self.uploads: set[str] = set()  # the paths that were put, and for which the server said so
        self.faults: Counter[Kind] = Counter()
        self._upstream_port = upstream_port
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "FaultyProxy":
        self._thread.start()
        assert self._listening.wait(30), "the proxy does not listen"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda loop, context: None)  # connections end abruptly here by intent
        self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", self.port, limit=1 << 20))
        self._listening.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._read(reader)
            fault = self.choose(request)
            if fault:
                self.faults[fault.kind] += 1
            await self._reply(request, fault, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client or the server has gone
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, path, _ = first.split(" ", 2)
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if fields.get("transfer-encoding") == "chunked":
            body = await _chunks(reader)
        else:
            body = await reader.readexactly(int(fields.get("content-length", "0")))
        kept = [line for line in lines if not line.lower().startswith("connection:")]
        head = "\r\n".join([first, *kept, "Connection: close", "", ""]).encode("latin-1")
        request = Request(len(self.requests), method, path, head, body)
        self.requests.append((method, path))
        return request

    async def _reply(self, request: Request, fault: Fault | None, writer: asyncio.StreamWriter) -> None:
        kind = fault.kind if fault else None
        if kind == "unsent":
            return
        if kind == "refused":
            answer = _page("503 Service Unavailable", b"no server is available")
        elif kind == "login page":
            answer = _page("200 OK", LOGIN_PAGE)
        else:
            answer = await self._ask(request)
        if fault and kind == "cut":
            answer = answer[: int(len(answer) * fault.share)]
        if fault and kind == "delayed":
            await asyncio.sleep(fault.seconds)
        if kind != "lost":
            writer.write(answer)
            await writer.drain()
            writer.write_eof()
            await asyncio.sleep(0)

    async def _ask(self, request: Request) -> bytes:
        """The server's answer as far as it came: a server that is killed ends in the middle of it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        answer = bytearray()
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            while piece := await reader.read(1 << 16):
                answer += piece
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        if request.method == "PUT" and answer.startswith(b"HTTP/1.1 2"):
            self.uploads.add(request.path)
        return bytes(answer)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A body in chunks, as it is on the wire."""
    body = bytearray()
    while True:
        size = await reader.readuntil(b"\r\n")
        body += size
        length = int(size.split(b";")[0], 16)
        body += await reader.readexactly(length + 2)
        if length == 0:
            return bytes(body)


def _page(status: str, content: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content

"""scripts/lib/check_store.py: a store is asked ten seconds at most, as a process that a script waits for."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.project import ROOT, environment
from tests.proxies import Answer, proxy

RIGHT = Answer(200, json.dumps({"experiments": []}).encode())
LIMIT_S = 60  # with the imports of a loaded machine; without a limit of its own the check would take for ever


def asked(folder: Path, uri: str, **settings: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "scripts/lib/check_store.py")]
    env = environment(uri) | {"PYTHONPATH": str(ROOT), "HOME": str(folder), **settings}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    return done.returncode, done.stderr.strip()


@contextmanager
def dripping() -> Iterator[str]:
    """A server that answers one byte in half a second, so that no single wait is long."""
    ended = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def answer(client: socket.socket) -> None:
            with closing(client), suppress(OSError):
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
                while not ended.wait(0.5):
                    client.sendall(b" ")

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.long
def test_an_answer_that_never_ends(tmp_path: Path) -> None:
    began = time.monotonic()
    with dripping() as uri:
        assert asked(tmp_path, uri) == (1, "no complete answer within 10 s")
    assert time.monotonic() - began > 9


@pytest.mark.long
def test_a_workspace_is_asked(tmp_path: Path) -> None:
    with proxy(lambda method, path: RIGHT) as server:
        settings = {"DATABRICKS_HOST": server.uri, "DATABRICKS_TOKEN": "made-up"}
        assert asked(tmp_path, "databricks", **settings) == (0, "")
        assert server.requests


def test_an_address_in_capitals_between_spaces(tmp_path: Path) -> None:
    with proxy(lambda method, path: RIGHT) as server:
        assert asked(tmp_path, f" {server.uri.replace('http', 'HTTP')} \n") == (0, "")
        assert server.requests
    code, said = asked(tmp_path, "htpp://team:5000")
    assert code == 1
    assert said.startswith("tracking_uri=htpp://team:5000: MLflow knows no scheme htpp")


@pytest.mark.parametrize("uri", ["file:runs", "FILE:///nowhere/runs", "./mlruns"])
def test_nothing_is_asked_of_a_folder(uri: str, tmp_path: Path) -> None:
    assert asked(tmp_path, uri) == (0, "")
    assert not [*tmp_path.iterdir()]

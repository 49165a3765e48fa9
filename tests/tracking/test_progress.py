import json
import os
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ttt_mlflow.tracking import progress
from ttt_mlflow.tracking.progress import COMPUTED_S, Moved, _computed_s, bytes_left


@pytest.fixture(autouse=True)
def _nothing_else_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is pytest's: other tests have left threads and files, and it is busy itself."""
    every = progress._descriptors
    before = {(one, os.fstat(one).st_ino) for one in every() if Path(f"/proc/self/fd/{one}").exists()}

    def seen(one: int) -> bool:
        try:
            return (one, os.fstat(one).st_ino) in before
        except OSError:
            return True  # the listing's own, closed again

    monkeypatch.setattr(progress, "_descriptors", lambda: [one for one in every() if not seen(one)])
    monkeypatch.setattr(progress, "COMPUTED_S", 60.0)


def pair() -> tuple[socket.socket, socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def looked(moved: Moved) -> bool:
    """A look from another thread, as the publishing process does it; this one only waits."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(moved.look()))
    thread.start()
    thread.join()
    return found[0]


def test_bytes_over_a_socket() -> None:
    client, server = pair()
    with client, server:
        moved = Moved()
        assert not looked(moved)
        client.sendall(b"x" * 1000)
        server.recv(1000)
        assert looked(moved)
        assert moved.sent == 1000
        assert not looked(moved)
        server.sendall(b"answer")
        client.recv(100)
        assert looked(moved)
        assert not looked(moved)


def test_a_connection_alone_is_no_progress() -> None:
    moved = Moved()
    client, server = pair()
    with client, server:
        assert not looked(moved)
    assert not looked(moved)


def test_a_file_that_is_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    moved = Moved()
    with path.open("rb", buffering=0) as file:
        assert not looked(moved)
        file.read(10)
        assert looked(moved)
        assert not looked(moved)
        file.seek(0)
        assert not looked(moved)


def test_computing_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the server that is waited for. A store that gets its tables answers nothing for seconds."""
    monkeypatch.setattr(progress, "COMPUTED_S", COMPUTED_S)
    moved = Moved()
    began = _computed_s()
    while _computed_s() - began < 2 * COMPUTED_S:
        pass
    assert looked(moved)
    assert not looked(moved)


def test_what_is_left(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    (artifacts / "profiles").mkdir(parents=True)
    (artifacts / "log.txt").write_bytes(b"x" * 10)
    (artifacts / "profiles/trace").write_bytes(b"x" * 300)
    os.symlink("/dev/zero", artifacts / "link")
    assert bytes_left(tmp_path) >= 310
    (artifacts / "link").unlink()
    assert bytes_left(tmp_path) == 310
    (tmp_path / "uploaded.json").write_text(json.dumps({"run_id": "1", "files": {"profiles/trace": "0"}}))
    assert bytes_left(tmp_path) == 10
    (tmp_path / "uploaded.json").write_text("no JSON")
    assert bytes_left(tmp_path) == 310
    assert bytes_left(tmp_path / "none") == 0

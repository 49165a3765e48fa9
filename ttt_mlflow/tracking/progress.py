"""Tells whether a process that publishes makes progress, or only waits.

Progress is bytes that moved over its sockets and in its files. Computing counts too: a new SQLite store, for example,
gets its tables, which takes seconds.
"""

import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# struct tcp_info of linux/tcp.h: bytes that the peer has acknowledged, and bytes received, since Linux 4.1
TCP_BYTES = struct.Struct("=QQ")
TCP_BYTES_AT = 120
OPEN_FILES = Path("/proc/self/fd")
COMPUTED_S = 0.1  # processor time that counts; who waits for an answer, and asks again, needs less


class Moved:
    """The bytes that this process moved since it was made. Another thread asks while the work goes on."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int, str], int] = dict(_positions())
        self._computed_s = _computed_s()
        self.sent = 0

    def look(self) -> bool:
        """Whether bytes moved since the last look: sent and acknowledged, received, read from or written to a file.

        Or whether the main thread has computed since the last progress.
        """
        computed_s = _computed_s()
        moved = computed_s - self._computed_s > COMPUTED_S
        now = dict(_positions())
        for key, position in now.items():
            # of a new connection, the peer has acknowledged the request to connect, which counts as a byte
            more = position - self._seen.get(key, 1 if key[2] == "acked" else 0)
            if more > 0:
                moved = True
                self.sent += more if key[2] == "acked" else 0
        self._seen = now
        if moved:
            self._computed_s = computed_s
        return moved


def _computed_s() -> float:
    """Processor time of the main thread, which does the work."""
    main = threading.main_thread().ident
    assert main
    return time.clock_gettime(time.pthread_getcpuclockid(main))


def _positions() -> Iterator[tuple[tuple[int, int, str], int]]:
    """How far each socket and each file of this process is, by descriptor and inode."""
    for entry in _descriptors():
        try:
            status = os.fstat(entry)
            if stat.S_ISREG(status.st_mode):
                yield (entry, status.st_ino, "position"), os.lseek(entry, 0, os.SEEK_CUR)
            elif stat.S_ISSOCK(status.st_mode):
                acked, received = _socket_bytes(entry)
                yield (entry, status.st_ino, "acked"), acked
                yield (entry, status.st_ino, "received"), received
        except OSError:  # closed since, or not a TCP connection
            continue


def _descriptors() -> list[int]:
    try:
        return [int(entry.name) for entry in OPEN_FILES.iterdir()]
    except OSError:
        return []


def _socket_bytes(descriptor: int) -> tuple[int, int]:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        facts = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_BYTES_AT + TCP_BYTES.size)
    acked, received = TCP_BYTES.unpack_from(facts, TCP_BYTES_AT)
    return acked, received


def bytes_left(record: Path) -> int:
    """Bytes of the record's artifacts that are not uploaded and verified yet."""
    try:
        uploaded = json.loads((record / "uploaded.json").read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        uploaded = {}
    artifacts, left = record / "artifacts", 0
    for folder, _, files in os.walk(artifacts):
        for name in files:
            path = Path(folder) / name
            if str(path.relative_to(artifacts)) not in uploaded:
                try:
                    left += path.lstat().st_size
                except OSError:  # removed since
                    continue
    return left

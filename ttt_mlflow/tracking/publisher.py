"""The run's end of the process that talks to MLflow: starts it, asks it, and ends it if it makes no progress."""

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from ttt_mlflow import errors
from ttt_mlflow.errors import PublishFailed, TTTError
from ttt_mlflow.redaction import without_secrets

PATIENCE_S, MOST_S = 15.0, 300.0
LOOK_S = 0.5  # between two updates of what is shown
ENDS_WITHIN_S = 2.0  # from SIGTERM to SIGKILL
# A request of MLflow's client must not end, and be sent again, before the patience does.
BEYOND_PATIENCE_S = 5.0
WORKED_S = 0.25  # of the processor: a process that used so much works, as on a new store's tables, and waits for nobody


@dataclass(frozen=True)
class Limits:
    """How long the run waits. patience_s: in all, without progress. most_s: for a publication that moves."""

    patience_s: float = PATIENCE_S
    most_s: float = MOST_S


@dataclass(frozen=True)
class Progress:
    """What a publication has done. sent, left: bytes. silent_s: since the last sign of progress."""

    sent: int
    left: int
    seconds: float
    silent_s: float


class NoAnswer(PublishFailed):
    """The process did not do what it was asked for, and has ended or is of no more use."""


class NoProgress(NoAnswer):
    """The process was ended because no byte moved and no answer came."""


class Publisher:
    """One process, which answers one request after the other. It has a session of its own: Ctrl-C does not reach it.

    Its command line holds no address and no credentials. It ends with its input, so also if this process is killed.
    """

    def __init__(self, limits: Limits) -> None:
        """limits: the widest that a request will have."""
        # its standard error, for the message if it ends early; in memory, because TMPDIR may be full
        self._said = open(os.memfd_create("said"), "w+b")  # noqa: SIM115 (it is open as long as the process)
        timeout = str(int(limits.patience_s + BEYOND_PATIENCE_S + 1))
        python_path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ttt_mlflow.tracking.background"],
            env={"MLFLOW_HTTP_REQUEST_TIMEOUT": timeout, **os.environ, "PYTHONPATH": python_path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
        )
        assert self._process.stdout
        self._process_times = psutil.Process(self._process.pid)
        os.set_blocking(self._process.stdout.fileno(), False)
        self._unread = b""
        self._count = 0
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, do: str, awaited: bool = False, **asked: Any) -> int:
        """Ask for ``do`` and return the number of the request. awaited: :meth:`ask` waits for it."""
        self._count += 1
        request = {"id": self._count, "do": do, "awaited": awaited, "with": asked}
        assert self._process.stdin
        with suppress(BrokenPipeError):  # :meth:`ask` tells why it has ended
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return self._count

    def ask(self, do: str, limits: Limits, show: Callable[[Progress], None] | None = None, **asked: Any) -> Any:
        """Ask for ``do`` and return the answer; raise the error that the process reports.

        Raises :class:`NoProgress`, after the process was ended, if for the patience no byte moved, no answer came, and
        it did not work; and :class:`NoAnswer` if the time is up. The import of MLflow does not count.
        """
        return self._wait(self.send(do, awaited=True, **asked), limits, show)

    def _wait(self, request: int, limits: Limits, show: Callable[[Progress], None] | None) -> Any:
        began = moved_at = time.monotonic()
        sent = left = 0
        worked = self._processor_s()
        with selectors.DefaultSelector() as selector:
            assert self._process.stdout
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while True:
                now = time.monotonic()
                if not self._ready:
                    began = moved_at = now
                if (used := self._processor_s()) - worked >= WORKED_S:
                    moved_at, worked = now, used
                if now - moved_at >= limits.patience_s:
                    self.close()
                    raise NoProgress(f"for {limits.patience_s:g} s no byte moved and no answer came")
                if now - began >= limits.most_s:
                    self.close()
                    raise NoAnswer(f"it took over {limits.most_s:g} s; {left / 1e6:,.1f} MB are left")
                until = min(moved_at + limits.patience_s, began + limits.most_s)
                if selector.select(min(LOOK_S, until - now)):
                    for line in self._lines():
                        if "ready" in line:
                            self._ready = True
                        if "sent" in line:
                            sent, left = line["sent"], line["left"]
                        if line.get("id") == request:
                            return _result(line)
                        moved_at = time.monotonic()
                if show:
                    now = time.monotonic()
                    show(Progress(sent, left, now - began, now - moved_at))

    def _processor_s(self) -> float:
        """Seconds of the processor that the process has used; 0 if it has ended, which :meth:`_lines` tells."""
        with suppress(psutil.Error):
            used = self._process_times.cpu_times()
            return used.user + used.system
        return 0.0

    def _lines(self) -> list[dict[str, Any]]:
        """The answers that have come. Raises NoAnswer if the process has ended."""
        assert self._process.stdout
        read = self._process.stdout.read()
        if read == b"":
            self.close()
            raise NoAnswer(f"the process that publishes has ended early: {self._last_words()}")
        *lines, self._unread = (self._unread + (read or b"")).split(b"\n")
        answers = []
        for line in lines:
            with suppress(ValueError):  # an answer of which a signal took the beginning; nobody waits for it
                answers.append(json.loads(line))
        return answers

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "")
        return without_secrets(said)[:300] or f"exit code {self._process.returncode}"

    def close(self) -> None:
        """End the process. It loses nothing: the record has all."""
        self._process.terminate()
        try:
            self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, for example on a network's file
                self._process.wait(ENDS_WITHIN_S)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what it did not read
                assert pipe
                pipe.close()


def _result(answer: dict[str, Any]) -> Any:
    if "failed" not in answer:
        return answer["done"]
    kind = getattr(errors, answer["failed"], NoAnswer)
    raise (kind if issubclass(kind, TTTError) else NoAnswer)(answer["message"])

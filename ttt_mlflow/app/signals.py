"""Signal handling, and the `mlflow run` that started this process."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from ttt_mlflow.errors import Killed, request_stop
from ttt_mlflow.tracking.takeover import Candidate

PARENT_POLL_S = 0.5


@dataclass(frozen=True)
class ParentRun:
    """The run that MLFLOW_RUN_ID names. candidate: what tells whether `mlflow run` made it for this process.

    pid: the process that started this one, `mlflow run` if it is so.
    """

    candidate: Candidate
    pid: int

    @classmethod
    def of_this_process(cls) -> "ParentRun | None":
        run_id = os.environ.get("MLFLOW_RUN_ID")
        return cls(Candidate.of_words(run_id, sys.argv[1:]), os.getppid()) if run_id else None

    def follow(self) -> None:
        """From now on, end by SIGTERM when `mlflow run` dies, which does not forward the signal that ended it.

        Not by PR_SET_PDEATHSIG: that counts the end of the thread that started this process as the parent's.
        """
        threading.Thread(target=_terminate_after, args=(self.pid,), name="parent", daemon=True).start()

    def keep_killed(self) -> None:
        """Start the process that keeps the run KILLED."""
        from ttt_mlflow.tracking import keep_killed

        keep_killed.start(self.candidate.run_id, self.pid)


def _terminate_after(parent: int) -> None:
    """Wait until the process ``parent`` is no longer this one's parent, because it has ended, and end this one."""
    try:
        watched = os.pidfd_open(parent)
    except (AttributeError, OSError):  # another system, an old kernel, or it has ended
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
    else:
        if os.getppid() == parent:  # else its number may be another's by now
            select.select([watched], [], [])  # nothing happens in this thread until then
        os.close(watched)
    os.kill(os.getpid(), signal.SIGTERM)


def _signums() -> list[signal.Signals]:
    """The signals that end a command: Ctrl-C, SIGTERM, and the end of the terminal unless it is ignored, as by nohup.

    None outside of the main thread, where Python handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn a signal into Killed, so that what the block has opened is closed. A second one ends the process at once."""

    def stop(signum: int, frame: FrameType | None) -> None:
        restore()
        raise Killed(signum)

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    before = {signum: signal.signal(signum, stop) for signum in _signums()}
    try:
        yield
    finally:
        restore()


class SignalHandler:
    """Turns the first Ctrl-C or SIGTERM into Killed. A later one only prints that the run is ending.

    A Ctrl-C on ``mlflow run`` arrives twice: as SIGINT from the terminal, then as SIGTERM from mlflow. A terminal that
    goes away ends nothing: what measures goes on to its end, as under nohup, and so does all that it starts.
    """

    def __init__(self) -> None:
        self.stopping = False

    def __enter__(self) -> "SignalHandler":
        self._before = {}
        for signum in _signums():
            heard = signal.SIG_IGN if signum == signal.SIGHUP else self._hear
            self._before[signum] = signal.signal(signum, heard)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        request_stop(None)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.stopping:
            with suppress(OSError):  # not print(): the signal may have interrupted one
                os.write(2, b"already stopping, recording what was measured\n")
            return
        self.stopping = True
        request_stop(Killed(signum))

"""Signal handling, and the `mlflow run` that started this process."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from ttt_mlflow.errors import Killed, request_stop
from ttt_mlflow.tracking.takeover import Candidate


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
        """From now on, end by SIGTERM when `mlflow run` dies, which does not forward the signal that ended it."""
        if sys.platform == "linux":
            pr_set_pdeathsig = 1  # linux/prctl.h
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
            if os.getppid() != self.pid:  # it died before
                signal.raise_signal(signal.SIGTERM)

    def keep_killed(self) -> None:
        """Start the process that keeps the run KILLED."""
        from ttt_mlflow.tracking import keep_killed

        keep_killed.start(self.candidate.run_id, self.pid)


class SignalHandler:
    """Turns the first SIGINT or SIGTERM into Killed. A later one only prints that the run is ending.

    A Ctrl-C on ``mlflow run`` arrives twice: as SIGINT from the terminal, then as SIGTERM from mlflow. hangup: also
    handle SIGHUP, the end of the terminal, unless it is ignored as under nohup.
    """

    def __init__(self, hangup: bool = False) -> None:
        self.stopping = False
        self._signums = [signal.SIGINT, signal.SIGTERM]
        if hangup and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self._signums.append(signal.SIGHUP)

    def __enter__(self) -> "SignalHandler":
        self._before = {signum: signal.signal(signum, self._hear) for signum in self._signums}
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
        killed = Killed(signum)
        request_stop(killed)
        raise killed

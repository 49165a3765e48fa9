"""Errors that the tool expects, with their exit codes.

A message states what was requested, what prevents it and what to do. The exit codes are public: 0 measured and
recorded, 1 the run failed, 2 bad input, 3 out of memory, 4 measured but not published, 70 a fault of this program while
nothing was being measured, 128 + n stopped by signal n.
"""

import signal

FAULT = 70  # EX_SOFTWARE of sysexits.h
NOTHING_MEASURED = "before anything was measured"  # what a signal interrupted


class TTTError(Exception):
    """An expected failure. It is shown as one line, without a traceback."""

    exit_code = 1


class RunFailed(TTTError):
    """The measurement failed."""

    exit_code = 1


class BadInput(TTTError):
    """A parameter has a value that is not possible here. Nothing was built or measured."""

    exit_code = 2


class OutOfMemory(TTTError):
    """The configuration does not fit on the device. This is a result, recorded as ``ttt.status=oom``."""

    exit_code = 3


class PublishFailed(TTTError):
    """The record is on disk, but it could not be sent to MLflow."""

    exit_code = 4


class NotAllowed(PublishFailed):
    """The server does not let this person do it. It would say the same of other records for that experiment."""


class BeingPublished(PublishFailed):
    """Another process is publishing the record at this moment. Nothing is wrong."""

    exit_code = 0


class DamagedRecord(TTTError):
    """A record on disk is not what was written. It is set aside, and nothing of it is published."""

    exit_code = 4


class Killed(BaseException):
    """A signal requested the end of the run. It is not an ``Exception``, so no handler for failures catches it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.during = ""  # what the signal interrupted, if the message should mention it

    def __str__(self) -> str:
        return f"{super().__str__()} {self.during}".rstrip()

    @property
    def exit_code(self) -> int:
        return 128 + self.signum


_asked: Killed | None = None


def request_stop(killed: Killed | None) -> None:
    """Store the signal's request for the end of the run, in addition to raising it. None clears the request."""
    global _asked
    _asked = killed


def end_if_asked() -> None:
    """Raise the :class:`Killed` that was requested but not delivered.

    Python discards an exception that a signal handler raises during a destructor or a callback of the garbage
    collector. Long work therefore calls this function between its parts.
    """
    if _asked:
        raise _asked


def one_line(error: BaseException) -> str:
    """An unexpected error as one line that is short enough for a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def on_one_line(value: object) -> str:
    """``value`` for a message: no line feeds, and no codes that a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))

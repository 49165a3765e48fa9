"""Errors that the tool expects, with their exit codes.

A message states what was requested, what prevents it and what to do. The exit codes are public: 0 measured and
recorded, 1 the run failed, 2 bad input, 3 out of memory, 4 measured but not published, 70 a fault of this program while
nothing was being measured, 128 + n stopped by signal n.
"""

import signal
import threading
from types import FrameType
from typing import Self

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
    """Store the signal's request for the end of the run, and raise it, in a signal handler. None clears the request.

    Inside of :class:`Uninterrupted` it is raised at the end of the block.
    """
    global _asked
    _asked = killed
    if killed:
        Uninterrupted.stop(killed)


def end_if_asked() -> None:
    """Raise the :class:`Killed` that was requested but not delivered.

    Python discards an exception that a signal handler raises during a destructor or a callback of the garbage
    collector. Long work therefore calls this function between its parts.
    """
    if _asked:
        raise _asked


class Uninterrupted:
    """A block that is over in a moment and that no signal cuts in two. What a signal raises comes at its end.

    Without it a signal may arrive between a call and what is done with its result: a lock stays held, for which the
    same process then waits without an end, or a file is announced that never comes. Signals arrive in the main thread
    alone; elsewhere this does nothing. It holds for the handlers that call :func:`request_stop`, and for Python's own
    of Ctrl-C.
    """

    _depth = 0
    _waiting: BaseException | None = None

    @classmethod
    def stop(cls, why: BaseException) -> None:
        """Raise ``why``, now or when the block ends."""
        if not cls._depth:
            raise why
        cls._waiting = why

    def __enter__(self) -> Self:
        self._counts = threading.current_thread() is threading.main_thread()
        if self._counts:
            if not Uninterrupted._depth:
                Uninterrupted._waiting = None
                if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                    signal.signal(signal.SIGINT, _wait_with_it)
            Uninterrupted._depth += 1  # last: a signal before raises here, and one after it waits
        return self

    def __exit__(self, *_: object) -> None:
        if not self._counts:
            return
        Uninterrupted._depth -= 1  # from here on a signal may raise again, in this method too
        if Uninterrupted._depth:
            return
        if signal.getsignal(signal.SIGINT) is _wait_with_it:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if Uninterrupted._waiting:
            raise Uninterrupted._waiting


def _wait_with_it(signum: int, frame: FrameType | None) -> None:
    """In the place of Python's own handler of Ctrl-C, while no signal is to cut a block in two; else the same."""
    Uninterrupted.stop(KeyboardInterrupt())


def one_line(error: BaseException) -> str:
    """An unexpected error as one line that is short enough for a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def on_one_line(value: object) -> str:
    """``value`` for a message: no line feeds, and no codes that a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))

"""What can go wrong, as the person who runs the tool should read it.

A message says what was asked, what stands in the way and what to do. The exit codes are public:
0 measured and recorded, 1 the run failed, 2 bad input, 3 out of memory, 4 measured but not published,
128 + n ended by signal n.
"""

import signal


class TTTError(Exception):
    """An expected failure: shown as one line, never as a traceback."""

    exit_code = 1


class RunFailed(TTTError):
    """The measurement itself failed."""

    exit_code = 1


class BadInput(TTTError):
    """A parameter that cannot be honored; nothing was built or measured."""

    exit_code = 2


class OutOfMemory(TTTError):
    """The configuration does not fit on the device: a result, recorded as ``ttt.status=oom``."""

    exit_code = 3


class PublishFailed(TTTError):
    """The record is on disk but could not be sent to MLflow."""

    exit_code = 4


class Killed(BaseException):
    """A signal asked the run to end. Not an ``Exception``, so that no handler for failures catches it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.during = ""  # what it cut short, where that is worth saying

    def __str__(self) -> str:
        return f"{super().__str__()} {self.during}".rstrip()

    @property
    def exit_code(self) -> int:
        return 128 + self.signum


_asked: Killed | None = None


def request_stop(killed: Killed | None) -> None:
    """Remember that a signal asked the run to end, besides raising it; None: forget it."""
    global _asked
    _asked = killed


def end_if_asked() -> None:
    """Raise the :class:`Killed` that was asked for and has not arrived.

    Where a signal comes while a destructor or a callback of the garbage collector runs, Python drops what its handler
    raises. So whoever works for long asks here between its parts.
    """
    if _asked:
        raise _asked


def one_line(error: BaseException) -> str:
    """What an unexpected error says, short enough for a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"

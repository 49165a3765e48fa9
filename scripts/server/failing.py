"""How the programs of this folder end: with one line and an exit code, without a password and without a traceback."""

import signal
import sys
from collections.abc import Callable
from types import FrameType

from ttt_mlflow.errors import TTTError
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.store import clipped

BUG = 70
INCOMPLETE = 4


class Refused(TTTError):
    """Not done, and nothing was changed. The message is one line: what was asked, what prevents it, what to do."""

    exit_code = 2


class Failed(TTTError):
    """It went wrong on the way. The message says what is left."""

    exit_code = 1


class Stopped(BaseException):
    """A signal asks for the end. What was begun is taken back on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def end_with(work: Callable[[], int]) -> None:
    """Exit with the code of ``work``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        code = work()
    except Stopped as stopped:
        tell(f"Stopped by {stopped}; what was begun is removed")
        code = 128 + stopped.number
    except TTTError as error:
        tell(f"Error: {error}")
        code = error.exit_code
    except Exception as error:
        tell(f"Error: {one_line(error)}. This is a bug in ttt_mlflow; please report it")
        code = BUG
    sys.exit(code)


def tell(text: str) -> None:
    """One line for a person, on standard error."""
    print(without_secrets(" ".join(text.split())), file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """What a library says, in one line: the message of the driver below SQLAlchemy, without SQLAlchemy's own words."""
    said = str(getattr(error, "orig", None) or error)
    return clipped(without_secrets(" ".join(said.split())) or type(error).__name__, 300)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)

"""Terminal output of the commands."""

import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from ttt_mlflow.errors import TTTError
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.text import END, GRAY, printable

PROGRESS_S = 2.0


class OutputLost(TTTError):
    """What a command was to print cannot be written, for example on a full disk."""

    exit_code = 1


class GuardedStream:
    """A text stream that hides secrets. It hears what libraries and tracebacks print too.

    drops: what cannot be written is dropped; otherwise it raises OutputLost, or BrokenPipeError if the reader left.
    """

    def __init__(self, stream: Any, drops: bool) -> None:
        self._stream, self._drops = stream, drops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return int(self._try(self._stream.write, without_secrets(text)) or 0)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except OutputLost:
            if not self._drops:
                raise
        except OSError as error:
            # also discards buffered text and the later output of libraries
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if not self._drops:
                if error.errno == errno.EPIPE:
                    raise
                raise OutputLost(f"the output cannot be written ({error.strerror}); send it elsewhere") from None
        return None


def open_output() -> None:
    """Make both streams usable, whatever this process was started with, and hide secrets in all that it prints."""
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        _open_closed(number, mode)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a locale without the character is no reason to end
    sys.stdout, sys.stderr = GuardedStream(sys.stdout, drops=False), GuardedStream(sys.stderr, drops=True)

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # as one text: Python prints a message line by line, and a password may go over two lines
        sys.stderr.write("".join(traceback.format_exception(kind, error, trace)))

    sys.excepthook = show


def _open_closed(number: int, mode: str) -> None:
    """Open a standard stream that is closed. Otherwise the next file that is opened takes its number."""
    name = ("stdin", "stdout", "stderr")[number]
    with suppress(OSError):
        os.fstat(number)
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115


def close_output() -> int:
    """Write what is still buffered. Returns the exit code of a command that could not print all, else 0."""
    try:
        sys.stdout.flush()
    except OutputLost as error:
        show_error(error)
        return error.exit_code
    except BrokenPipeError:
        return OutputLost.exit_code
    finally:
        sys.stderr.flush()
    return 0


def guard_output() -> None:
    """For a command that does more than print: what cannot be printed does not end it, and is no failure."""
    sys.stdout, sys.stderr = GuardedStream(sys.stdout, drops=True), GuardedStream(sys.stderr, drops=True)


def show_error(error: TTTError) -> None:
    """Print one line on standard error for each line of the message."""
    for line in str(error).splitlines():
        print_error(f"Error: {line}")


def print_text(text: str) -> None:
    """Print to standard output, in gray and black only on a terminal.

    ``text`` may hold what others wrote, for example the name of a run. So it shows no secrets, and no control
    characters but the ends of lines.
    """
    text = without_secrets(text)
    parts = [(code, printable(part, "\n\t")) for code, part in _by_color(text)]
    print("".join(f"{code}{part}" if sys.stdout.isatty() else part for code, part in parts))


def print_error(text: str) -> None:
    """Print to standard error, as :func:`print_text` does."""
    print(printable(without_secrets(text), "\n\t"), file=sys.stderr)


def progress_lines() -> Callable[[str], None]:
    """A function that prints what it is told, at most every two seconds, to stderr."""
    last = time.monotonic()

    def tell(done: str) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_S:
            last = time.monotonic()
            print_error(done)

    return tell


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show what goes on, on a terminal's standard error, until the block ends. What it yields changes the text."""
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


def _by_color(text: str) -> Iterator[tuple[str, str]]:
    """The parts of ``text``, each with the code of this program before it, which makes it gray or ends that."""
    code = ""
    for part in re.split(f"({re.escape(GRAY)}|{re.escape(END)})", text):
        if part in (GRAY, END):
            code = part
        else:
            yield code, part
            code = ""

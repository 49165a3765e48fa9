"""Terminal output of the commands."""

import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ttt_mlflow.errors import TTTError
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.text import END, GRAY, printable

PROGRESS_S = 2.0


class BrokenPipeGuard:
    """A text stream that discards its text, instead of raising, after the other end was closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return int(self._unless_closed(self._stream.write, text) or 0)

    def flush(self) -> None:
        self._unless_closed(self._stream.flush)

    def _unless_closed(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal went away
                raise
            # also discards buffered text and the later output of libraries
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return None


class SecretsGuard:
    """A text stream that hides secrets. It hears what libraries and tracebacks print too."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return int(self._stream.write(without_secrets(text)))


def guard_secrets() -> None:
    """Hide secrets in all that this process prints, a traceback included."""
    sys.stdout, sys.stderr = SecretsGuard(sys.stdout), SecretsGuard(sys.stderr)

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # as one text: Python prints a message line by line, and a password may go over two lines
        sys.stderr.write("".join(traceback.format_exception(kind, error, trace)))

    sys.excepthook = show


def guard_output() -> None:
    """Keep a closed terminal or pipe from ending a measurement."""
    sys.stdout, sys.stderr = BrokenPipeGuard(sys.stdout), BrokenPipeGuard(sys.stderr)


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

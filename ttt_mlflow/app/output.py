"""Terminal output of the commands."""

import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from ttt_mlflow.errors import TTTError

PROGRESS_S = 2.0
ANSI_CODES = re.compile(r"\x1b\[[0-9;]*m")


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
        except BrokenPipeError:
            # also discards buffered text and the later output of libraries
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return None


def guard_output() -> None:
    """Keep a closed terminal or pipe from ending a measurement."""
    sys.stdout, sys.stderr = BrokenPipeGuard(sys.stdout), BrokenPipeGuard(sys.stderr)


def show_error(error: TTTError) -> None:
    """Print one line on standard error for each line of the message."""
    for line in str(error).splitlines():
        print_error(f"Error: {line}")


def print_text(text: str) -> None:
    """Print to standard output, without colors unless it is a terminal."""
    print(text if sys.stdout.isatty() else ANSI_CODES.sub("", text))


def print_error(text: str) -> None:
    print(text, file=sys.stderr)


def progress_lines() -> Callable[[str], None]:
    """A function that prints what it is told, at most every two seconds, to stderr."""
    last = time.monotonic()

    def tell(done: str) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_S:
            last = time.monotonic()
            print_error(done)

    return tell

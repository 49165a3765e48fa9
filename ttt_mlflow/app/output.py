"""What a person reads while a command runs."""

import os
import re
import sys
from collections.abc import Callable
from typing import Any

from ttt_mlflow.errors import TTTError

ANSI_CODES = re.compile(r"\x1b\[[0-9;]*m")


class BrokenPipeGuard:
    """A text stream that goes silent, instead of raising, once nobody reads its other end."""

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
            # also what the stream still holds, and what libraries write, goes nowhere from now on
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return None


def guard_output() -> None:
    """A terminal or a pipe that is closed meanwhile may not cost a measurement."""
    sys.stdout, sys.stderr = BrokenPipeGuard(sys.stdout), BrokenPipeGuard(sys.stderr)


def show_error(error: TTTError) -> None:
    """One line on standard error for each line of the message."""
    for line in str(error).splitlines():
        print_error(f"Error: {line}")


def print_text(text: str) -> None:
    """On standard output; without colors where that is no terminal."""
    print(text if sys.stdout.isatty() else ANSI_CODES.sub("", text))


def print_error(text: str) -> None:
    print(text, file=sys.stderr)

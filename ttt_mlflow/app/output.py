"""What a person reads while a command runs."""

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from ttt_mlflow.errors import TTTError


class _Survivor:
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


def _survive_closed_output() -> None:
    """A terminal or a pipe that is closed meanwhile may not cost a measurement."""
    sys.stdout, sys.stderr = _Survivor(sys.stdout), _Survivor(sys.stderr)


def _show_error(error: TTTError) -> None:
    for line in str(error).splitlines():
        click.echo(f"Error: {line}", err=True)

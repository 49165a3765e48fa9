"""Passwords from a file, a variable or a terminal, never from the command line, which every user of a machine sees."""

import getpass
import os
import sys
from pathlib import Path

LEAST = 12  # characters, MLflow's own rule
MLFLOWS_OWN = "password1234"  # older versions of MLflow came with it


class Refused(Exception):
    """One line: what was asked, what stands in the way, what to do."""


def given(file: str | None, variable: str) -> str | None:
    """The password in ``file``, else in ``variable``, else None."""
    if file:
        return from_file(Path(file))
    if variable in os.environ:
        return checked(os.environ[variable], variable)
    return None


def from_file(path: Path) -> str:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Refused(f"{path}: the password cannot be read ({why})") from None
    lines = text.splitlines()
    if len(lines) != 1:
        raise Refused(f"{path}: the file of a password has one line, not {len(lines)}")
    return checked(lines[0], str(path))


def checked(password: str, where: str) -> str:
    """``password``, if MLflow takes it and nobody knows it. where: of which password the message speaks."""
    if not password:
        raise Refused(f"{where}: the password is empty; a password has {LEAST} characters or more")
    if len(password) < LEAST:
        raise Refused(f"{where}: the password is too short; a password has {LEAST} characters or more")
    if password == MLFLOWS_OWN:
        raise Refused(f"{where}: everybody knows this password, with which older versions of MLflow came; take another")
    return password


def on_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def asked(of: str, twice: bool = True) -> str:
    """The password that is typed on the terminal, where nobody sees it."""
    try:
        first = getpass.getpass(f"Password of {of}: ")
        if twice and first and getpass.getpass("The same again: ") != first:
            raise Refused(f"the two passwords of {of} differ; nothing was changed")
    except (EOFError, KeyboardInterrupt):
        raise Refused(f"no password of {of} was given") from None
    return first

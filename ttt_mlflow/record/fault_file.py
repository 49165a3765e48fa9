"""A file for the traceback of an error that nobody expected, to be sent to those who can mend it."""

import importlib.metadata
import platform
import shlex
import sys
import tempfile
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from ttt_mlflow.redaction import without_secrets

PACKAGES = ("ttt-mlflow", "torch", "triton", "mlflow")


def report_of(error: Exception) -> str:
    """What its maintainers need to know. It has no secrets, and nothing of the environment."""
    facts = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }
    lines = [f"{name}: {value}" for name, value in facts.items()]
    return without_secrets("\n".join([*lines, "", "".join(traceback.format_exception(error))]))


def written(text: str) -> str:
    """The path of a new file with ``text``, that only this user may read."""
    descriptor, path = tempfile.mkstemp(prefix="ttt-mlflow-fault-", suffix=".txt")
    try:
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        Path(path).unlink()
        raise
    return path


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def place_of(error: Exception) -> str:
    """Where the traceback of ``error`` is now, as the end of a sentence; empty if no file can be written."""
    with suppress(OSError):
        return f"; the traceback is in {written(report_of(error))}"
    return ""

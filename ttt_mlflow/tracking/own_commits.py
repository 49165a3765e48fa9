"""Whether a run that MLflow made is of this project, by the commit that MLflow writes into it."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path

from ttt_mlflow.telemetry.code import PACKAGE

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
OUR_PROJECT = re.compile(r"^name: ttt_mlflow$", re.MULTILINE)  # in MLproject
SECONDS = 10


@cache
def is_our_commit(commit: str, checkout: Path = PACKAGE.parent) -> bool:
    """Whether ``commit`` is one of the checkout that this package runs from, with this project in its root folder.

    A commit's id says so on every host. False where the package is installed without its checkout: nothing is known.
    """
    if not COMMIT.fullmatch(commit) or _git(checkout, "rev-parse", "--show-prefix") != "":
        return False
    return OUR_PROJECT.search(_git(checkout, "show", f"{commit}:MLproject") or "") is not None


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git; None if there is no git, no checkout, no such commit or no answer."""
    # what a git hook sets is of its own repository; and a commit that is not here is not asked for elsewhere
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            env={**env, "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""Ends with 0 if MLflow's client can work with the store of MLFLOW_TRACKING_URI, else with 1 and the reason.

Whoever has to be asked has ten seconds in all. Nothing is asked of a folder, with which `mlflow run` works.
The tables of a new SQLite store are made here: `mlflow run` makes them in place, and two at once destroy them.
"""

import os
import sys
from threading import Timer
from urllib.parse import urlsplit

from ttt_mlflow.errors import BadInput
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.new_store import make_ready, sqlite_file
from ttt_mlflow.tracking.store import (
    QUIET,
    check_tracking,
    check_workspace,
    is_databricks,
    known_errors,
    quiet_loggers,
    resolve_tracking_uri,
    settings,
)

ASK_S = 10.0


def ask(uri: str) -> str | None:
    """Why the store does not answer, or None."""
    import mlflow  # noqa: F401  (the time of its import is not the server's)

    # the search for a host's name cannot be interrupted, and an answer may come byte by byte
    timer = Timer(ASK_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        return check_workspace(uri) if is_databricks(uri) else check_tracking(uri)
    finally:
        timer.cancel()


def give_up() -> None:
    print(f"no complete answer within {ASK_S:.0f} s", file=sys.stderr, flush=True)
    os._exit(1)


try:
    uri = resolve_tracking_uri(None)
    reason = None
    if sqlite_file(uri):
        reason = check_tracking(uri)
        if not reason:
            with settings(QUIET), quiet_loggers():
                make_ready(uri)
    elif is_databricks(uri) or urlsplit(uri).scheme not in ("", "file"):
        reason = ask(uri)
except BadInput as error:
    reason = str(error)
except known_errors() as error:
    reason = f"{type(error).__name__}: {error}"
sys.exit(without_secrets(reason) if reason else 0)

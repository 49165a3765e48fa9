"""Ends with 0 if MLflow's client can work with the store of MLFLOW_TRACKING_URI, else with 1 and the reason.

The tables of a new SQLite store are made here: `mlflow run` makes them in place, and two at once destroy them.
"""

import sys

from ttt_mlflow.errors import BadInput
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.new_store import make_ready, sqlite_file
from ttt_mlflow.tracking.store import QUIET, check_tracking, known_errors, quiet_loggers, resolve_tracking_uri, settings

try:
    uri = resolve_tracking_uri(None)
    reason = check_tracking(uri)
    if not reason and sqlite_file(uri):
        with settings(QUIET), quiet_loggers():
            make_ready(uri)
except BadInput as error:
    reason = str(error)
except known_errors() as error:
    reason = f"{type(error).__name__}: {error}"
sys.exit(without_secrets(reason) if reason else 0)

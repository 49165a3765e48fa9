"""Checks whether a tracking store accepts a run, by writing something and removing it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from ttt_mlflow.tracking.store import CHECK_SECONDS, check_tracking, client_for_a_check, explain, known_errors

RUN_NAME = "ttt-mlflow doctor"


def check_writing(uri: str, experiment_name: str | None) -> str | None:
    """None if records can be written to ``uri``, else the reason in one line.

    For an SQLite file, the check takes and releases the write lock; it does not create the file. For a server or
    another database, the check makes a run with one small artifact in the experiment (or the default one) and deletes
    it. The run is then in MLflow's trash.
    """
    if reason := check_tracking(uri):
        return reason
    if urlsplit(uri).scheme.partition("+")[0] == "sqlite":
        return _check_sqlite_lock(Path(uri.partition(":///")[2].partition("?")[0]))
    return _check_run(uri, experiment_name)


def _check_run(uri: str, experiment_name: str | None) -> str | None:
    doing = "open it"
    try:
        with client_for_a_check(uri) as client:
            doing = "make a run"
            name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
            experiment = client.get_experiment_by_name(name) if name else None
            experiment_id = experiment.experiment_id if experiment else os.environ.get("MLFLOW_EXPERIMENT_ID", "0")
            run_id = client.create_run(experiment_id, run_name=RUN_NAME).info.run_id
            try:
                doing = "write a run's artifact"
                client.log_text(run_id, "written by `ttt-mlflow doctor`\n", "doctor.txt")
            finally:
                client.delete_run(run_id)
    except known_errors() as error:
        return f"it does not allow a client to {doing} ({explain(error)})"
    return None


def _check_sqlite_lock(path: Path) -> str | None:
    if not path.exists():
        return None  # the first run creates it; the check of its folder has already passed
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=CHECK_SECONDS)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return f"{path} is not writable ({error})"
    return None

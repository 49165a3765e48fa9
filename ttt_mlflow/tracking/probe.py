"""Checks whether a tracking store accepts a run, by writing something and removing it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow.tracking.store import (
    CHECK_SECONDS,
    DEFAULT_EXPERIMENT,
    MLFLOW_DEFAULT_ID,
    check_tracking,
    client_for_a_check,
    experiment_named,
    explain,
    known_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_NAME = "ttt-mlflow doctor"


def check_writing(uri: str, experiment_name: str | None) -> str | None:
    """None if records can be written to ``uri``, else the reason in one line.

    For an SQLite file, the check takes and releases the write lock; it does not create the file. For a server or
    another database, the check makes a run with one small artifact in the experiment and deletes it. The run is then in
    MLflow's trash. The experiment ``ttt-mlflow`` is created if it is the one and missing. Another one is not; MLflow's
    default experiment takes the run instead.
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
            name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
            experiment_id = None if name else os.environ.get("MLFLOW_EXPERIMENT_ID")
            if experiment_id is None:
                doing = f"use the experiment {name or DEFAULT_EXPERIMENT}"
                experiment_id = _experiment_id(client, name)
            doing = "make a run"
            run_id = client.create_run(experiment_id, run_name=RUN_NAME).info.run_id
            try:
                doing = "write a run's artifact"
                client.log_text(run_id, "written by `ttt-mlflow doctor`\n", "doctor.txt")
            finally:
                client.delete_run(run_id)
    except known_errors() as error:
        return f"it does not allow a client to {doing} ({explain(error)})"
    return None


def _experiment_id(client: "MlflowClient", name: str | None) -> str:
    experiment = client.get_experiment_by_name(name or DEFAULT_EXPERIMENT)
    if experiment:
        return str(experiment.experiment_id)
    return MLFLOW_DEFAULT_ID if name else experiment_named(client, DEFAULT_EXPERIMENT)


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

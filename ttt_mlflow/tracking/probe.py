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
    UnusableExperiment,
    check_tracking,
    client_for_a_check,
    deleted_text,
    experiment_named,
    explain,
    known_errors,
    unknown_text,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_NAME = "ttt-mlflow doctor"


def check_writing(uri: str, experiment_name: str | None) -> str | None:
    """None if records can be written to ``uri``, else the reason in one line.

    For an SQLite file, the check takes and releases the write lock, and looks whether the experiment was deleted; it
    does not create the file. For a server or
    another database, the check makes a run with one small artifact in the experiment and deletes it. The run is then in
    MLflow's trash. The experiment ``ttt-mlflow`` is created if it is the one and missing. Another one is not; MLflow's
    default experiment takes the run instead.
    """
    if reason := check_tracking(uri):
        return reason
    if urlsplit(uri).scheme.partition("+")[0] == "sqlite":
        return _check_sqlite_file(Path(uri.partition(":///")[2].partition("?")[0]), experiment_name)
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
    if experiment and experiment.lifecycle_stage == "deleted":
        raise UnusableExperiment(deleted_text(f"experiment_name={experiment.name}", str(experiment.experiment_id)))
    if experiment:
        return str(experiment.experiment_id)
    return MLFLOW_DEFAULT_ID if name else experiment_named(client, DEFAULT_EXPERIMENT)


def _check_sqlite_file(path: Path, experiment_name: str | None) -> str | None:
    if not path.exists():
        return None  # the first run creates it; the check of its folder has already passed
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=CHECK_SECONDS)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            return _deleted(connection, experiment_name)
    except sqlite3.Error as error:
        return f"{path} is not writable ({error})"


def _deleted(connection: sqlite3.Connection, experiment_name: str | None) -> str | None:
    """Why the experiment in which a run would be made is not usable, as far as a file that MLflow made tells."""
    name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    experiment_id = None if name else os.environ.get("MLFLOW_EXPERIMENT_ID")
    asked = f"experiment_id={experiment_id}" if experiment_id else f"experiment_name={name or DEFAULT_EXPERIMENT}"
    query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ? OR experiment_id = ?"
    try:
        found = connection.execute(query, (None if experiment_id else name or DEFAULT_EXPERIMENT, experiment_id))
        rows = found.fetchall()
    except sqlite3.OperationalError:  # MLflow has not made its tables yet
        return None
    if experiment_id and not rows:
        return unknown_text(asked)
    return deleted_text(asked, str(rows[0][0])) if rows and rows[0][1] == "deleted" else None

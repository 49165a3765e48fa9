"""Checks whether a tracking store accepts a run, by writing something and removing it."""

import os
import secrets
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow.tracking.experiments import deleted_text, experiment_named, refuse_unusable, unknown_text
from ttt_mlflow.tracking.new_store import sqlite_file
from ttt_mlflow.tracking.server_checks import may_delete
from ttt_mlflow.tracking.store import (
    CHECK_SECONDS,
    DEFAULT_EXPERIMENT,
    MLFLOW_DEFAULT_ID,
    UnusableExperiment,
    check_tracking,
    client_for_a_check,
    explain,
    known_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_NAME = "ttt-mlflow doctor"
TRIAL_FOLDER, TRIAL_FILE = "ttt-mlflow-doctor", "doctor.txt"  # in the experiment's folder, where no run is made


def check_writing(uri: str, experiment_name: str | None) -> str | None:
    """None if records can be written to ``uri``, else the reason in one line.

    For an SQLite file, the check takes and releases the write lock, and looks whether the experiment was deleted; it
    does not create the file. For a server or another database, an artifact must make the round trip. So the check makes
    a run with one small artifact in the experiment and deletes it. The run is then in MLflow's trash. Where the user
    may make runs and not delete them, no run is made; see :func:`_try_without_a_run`. The experiment ``ttt-mlflow`` is
    created if it is the one and missing. Another one is not; MLflow's default experiment takes the run instead.
    """
    if reason := check_tracking(uri):
        return reason
    if urlsplit(uri).scheme.partition("+")[0] == "sqlite":
        return _check_sqlite_file(sqlite_file(uri) or Path(uri.partition(":///")[2]), experiment_name)
    return _check_run(uri, experiment_name)


def _check_run(uri: str, experiment_name: str | None) -> str | None:
    trial = _Trial(uri)
    try:
        with client_for_a_check(uri) as client:
            trial.carry_out(client, experiment_name)
    except UnusableExperiment as error:
        return str(error)
    except known_errors() as error:
        return f"it does not allow a client to {trial.doing} ({explain(error, uri)})"
    return None


class _Trial:
    """One trial of the right to write. doing: what is tried now."""

    def __init__(self, uri: str) -> None:
        self.uri, self.doing = uri, "open it"

    def carry_out(self, client: "MlflowClient", experiment_name: str | None) -> None:
        name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        experiment_id = None if name else os.environ.get("MLFLOW_EXPERIMENT_ID")
        self.doing = f"use the experiment {experiment_id or name or DEFAULT_EXPERIMENT}"
        if experiment_id is None:
            experiment_id = _experiment_id(client, name)
        else:
            refuse_unusable(client, experiment_id)
        self.doing = "make a run"
        if urlsplit(self.uri).scheme in ("http", "https") and not may_delete(self.uri, experiment_id):
            self._try_without_a_run(client, experiment_id)
            return
        run = client.create_run(experiment_id, run_name=RUN_NAME)
        try:
            self.doing = "write a run's artifact"
            self._send_around(f"{run.info.artifact_uri}")
        except BaseException:  # raised again: whatever ended the trial, Ctrl-C too, its run is removed
            with suppress(*known_errors()):  # the first fault is told
                client.delete_run(run.info.run_id)
            raise
        self.doing = f"delete the run {run.info.run_id}, with which this was tried"
        client.delete_run(run.info.run_id)

    def _try_without_a_run(self, client: "MlflowClient", experiment_id: str) -> None:
        """Ask for a run that the store cannot make, which tells whether we may, and send an artifact around.

        The artifact is beside those of the runs, where no page shows it. It stays if we may not delete it, always the
        same one.
        """
        from mlflow.exceptions import MlflowException

        try:
            made = client.create_run(experiment_id, run_name=RUN_NAME, tags={"mlflow.runName": f"not {RUN_NAME}"})
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
        else:  # a store that takes two names
            self.doing = f"delete the run {made.info.run_id}, with which this was tried"
            client.delete_run(made.info.run_id)
        self.doing = "write an artifact"
        self._send_around(f"{client.get_experiment(experiment_id).artifact_location}/{TRIAL_FOLDER}")

    def _send_around(self, artifacts: str) -> None:
        """Write a small file to ``artifacts``, read it back, and remove it where that is allowed."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository = get_artifact_repository(artifacts, tracking_uri=self.uri)
        with tempfile.TemporaryDirectory() as folder:
            sent = Path(folder, TRIAL_FILE)
            sent.write_text(f"written by `{RUN_NAME}` {secrets.token_hex(8)}\n")
            repository.log_artifact(str(sent))
            self.doing = self.doing.replace("write", "read")
            returned = Path(folder, "back")
            returned.mkdir()
            back = Path(repository.download_artifacts(TRIAL_FILE, str(returned)))
            if back.read_bytes() != sent.read_bytes():
                raise OSError("what comes back is not what was sent")
        with suppress(Exception):  # no right of its own; the file is small and nobody sees it
            repository.delete_artifacts(TRIAL_FILE)


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

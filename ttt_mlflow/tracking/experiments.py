"""The experiment in which a run is made: found, made, or why it cannot take runs."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow.tracking.new_store import sqlite_file
from ttt_mlflow.tracking.store import UnusableExperiment, clipped, explain

if TYPE_CHECKING:
    from mlflow import MlflowClient

SHOWN = 80  # characters of an experiment's name in a message
FOLDER_NAME = 100  # characters; a file system takes 255 bytes


def experiment_named(client: "MlflowClient", name: str) -> str:
    """The id of the experiment ``name``. It is created if it does not exist.

    Raises :class:`UnusableExperiment` for a name that the store does not take, and for an experiment that was deleted:
    no other can get its name while it is in the trash.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise UnusableExperiment(deleted_text(f"experiment_name={name}", str(experiment.experiment_id)))
    if experiment is None:
        try:
            return str(client.create_experiment(name, _artifacts_beside(client.tracking_uri, name)))
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                asked = f"experiment_name={clipped(name, SHOWN)}"
                raise UnusableExperiment(f"{asked}: {explain(error)}; give another name") from error
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another run created it first
            assert experiment is not None
    return str(experiment.experiment_id)


def refuse_unusable(client: "MlflowClient", experiment_id: str) -> None:
    """Raise :class:`UnusableExperiment` if no experiment has this id, or a deleted one."""
    from mlflow.exceptions import MlflowException

    asked = f"experiment_id={experiment_id}"
    try:
        experiment = client.get_experiment(experiment_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # invalid: what is no number
            raise UnusableExperiment(unknown_text(asked)) from error
        raise
    if experiment.lifecycle_stage == "deleted":
        raise UnusableExperiment(deleted_text(asked, experiment_id))


def deleted_text(asked: str, experiment_id: str) -> str:
    """Why the experiment ``asked`` cannot take runs, and what to do."""
    return (
        f"{asked}: this experiment was deleted; restore it with "
        f"`mlflow experiments restore --experiment-id {experiment_id}`, or name another with --experiment-name"
    )


def unknown_text(asked: str) -> str:
    """The same for an id that no experiment has."""
    return f"{asked}: there is no such experiment; set MLFLOW_EXPERIMENT_ID to another, or give --experiment-name"


def _artifacts_beside(uri: str, name: str) -> str | None:
    """Where the artifacts of a new experiment go: beside an SQLite file, as those of MLflow's own experiment do.

    MLflow would take the current folder, and the next run may start in another one. None: as MLflow does, for a server
    and for a file in the current folder.
    """
    path = sqlite_file(uri)
    if path is None or path.parent == Path.cwd():
        return None
    return f"{path.parent}/mlruns/{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:FOLDER_NAME]}"

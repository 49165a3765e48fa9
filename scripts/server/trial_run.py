"""What a person may do in an experiment, tried: a run with a metric, an artifact and the saved views."""

import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from ttt_mlflow import names
from ttt_mlflow.tracking.store import explain, known_errors
from ttt_mlflow.tracking.views import prepare_experiment

ARTIFACT = "trial.txt"
METRIC = "trial"
As = Callable[[], AbstractContextManager[None]]


class NotAllowed(Exception):
    """What the person could not do, and why, in one line."""


def try_reading(uri: str, experiment_id: str, as_person: As) -> str:
    with as_person(), _step("reading runs"):
        MlflowClient(uri).search_runs([experiment_id], max_results=1)
    return "runs can be read"


def try_writing(uri: str, experiment_id: str, as_person: As) -> str:
    """Write a run as the person. The admin, as whom this is called, deletes it: EDIT does not delete."""
    client = MlflowClient(uri)
    with as_person(), _step("a run cannot be made"):
        run = client.create_run(experiment_id, run_name="trial of a new person")
    try:
        with as_person():
            _write(client, run)
            with _step("the experiment's views cannot be written"):
                experiment = client.get_experiment(experiment_id)
                prepare_experiment(client, experiment)
                tags = client.get_experiment(experiment_id).tags  # it writes nothing if all is there
                client.set_experiment_tag(experiment_id, names.TAG_VIEWS.name, tags[names.TAG_VIEWS.name])
            with _step("the run cannot be ended"):
                client.set_terminated(run.info.run_id, "FINISHED")
    finally:
        with _step(f"the trial run {run.info.run_id} cannot be deleted; delete it in the UI"):
            _remove(client, run)
    return "a run was written, read back and deleted"


def _write(client: MlflowClient, run: Run) -> None:
    run_id, text = run.info.run_id, secrets.token_hex(16)
    with _step("a metric cannot be written"):
        client.log_metric(run_id, METRIC, 1.0)
        if client.get_run(run_id).data.metrics.get(METRIC) != 1.0:
            raise NotAllowed("a metric does not come back as it was written")
    with _step("an artifact cannot be written and read back"), tempfile.TemporaryDirectory() as folder:
        client.log_text(run_id, text, ARTIFACT)
        back = Path(client.download_artifacts(run_id, ARTIFACT, folder))
        if back.read_text() != text:
            raise NotAllowed("an artifact does not come back as it was written")


def _remove(client: MlflowClient, run: Run) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if client.list_artifacts(run.info.run_id):
        get_artifact_repository(run.info.artifact_uri, tracking_uri=client.tracking_uri).delete_artifacts(ARTIFACT)
    client.delete_run(run.info.run_id)


@contextmanager
def _step(what: str) -> Iterator[None]:
    try:
        yield
    except known_errors() as error:
        raise NotAllowed(f"{what} ({explain(error)})") from None

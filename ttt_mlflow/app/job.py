"""x"""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from ttt_mlflow.app.measure import _Job
from ttt_mlflow.app.output import _show_error
from ttt_mlflow.app.signals import _Ending, _MlflowRun
from ttt_mlflow.errors import BadInput, Killed, PublishFailed, TTTError


@dataclass(frozen=True)
class _Destination:
    """Where a record goes, as it was asked for."""

    logdir: str
    tracking_uri: str | None
    experiment_name: str | None


def _execute(prepare: Callable[[], _Job], destination: _Destination) -> int:
    """Prepare, measure and publish; return the exit code. Raise BadInput or Killed while nothing is measured yet."""
    mlflow_run = _MlflowRun.parent()
    with _Ending() as ending:
        try:
            job = prepare()
            if mlflow_run:
                _refuse_other_destination(destination)
            return _measure_and_publish(job, destination, mlflow_run, ending)
        except (BadInput, Killed) as error:
            if mlflow_run:
                _tell_mlflow(mlflow_run, error)
            raise


def _measure_and_publish(
    job: _Job, destination: _Destination, mlflow_run: "_MlflowRun | None", ending: "_Ending"
) -> int:
    from rich.console import Console

    from ttt_mlflow.record.journal import Journal
    from ttt_mlflow.tracking import keep_killed, publish, store

    uri = store.resolve_tracking_uri(destination.tracking_uri)
    place, unreachable = store.without_password(uri), store.check_tracking(uri)
    asked = job.asked
    journal = Journal.create(Path(destination.logdir), asked.model_dump(mode="json"), asked.entry_point)
    run_id = mlflow_run.run_id if mlflow_run else None
    publish.settle_target(journal, uri, run_id, destination.experiment_name)
    for notice in job.notices:
        click.echo(f"Note: {notice}")
    if unreachable:
        later = f"`ttt-mlflow sync {shlex.quote(str(journal.path))}` sends it later"
        click.echo(f"Warning: tracking_uri={place}: cannot be reached ({unreachable})", err=True)
        click.echo(f"Warning: the measurement is kept in {journal.path}; {later}", err=True)

    exit_code = 0
    try:
        job.measure(journal, Console())
    except TTTError as error:
        _show_error(error)
        exit_code = error.exit_code
    except Killed as killed:
        click.echo(f"Ended by {killed}; what was measured is recorded.", err=True)
        exit_code = killed.exit_code
        if mlflow_run:
            keep_killed.start(mlflow_run.run_id, mlflow_run.pid)
    ending.begun = True  # a signal from here on does not cut the publishing short

    record_at, ui = str(journal.path), None
    try:
        published = publish.publish(journal, uri, run_id=run_id, experiment_name=destination.experiment_name)
        record_at += f", MLflow run {published.run_id} in {place}"
        ui = published.run_url or f"{_mlflow_command()} ui --backend-store-uri {shlex.quote(place)}"
    except PublishFailed as error:
        _show_error(error)
        exit_code = exit_code or error.exit_code
    click.echo(job.summary(journal, record_at))
    if ui:
        click.echo(f"MLflow UI: {ui}")
    return exit_code


def _refuse_other_destination(asked: _Destination) -> None:
    """The run that ``mlflow run`` made is in its own store and experiment; the record goes there."""
    if asked.tracking_uri:
        raise BadInput(
            f"tracking_uri={asked.tracking_uri}: `mlflow run` has already chosen the store; "
            "set MLFLOW_TRACKING_URI before it instead"
        )
    if asked.experiment_name:
        raise BadInput(
            f"experiment_name={asked.experiment_name}: `mlflow run` has already chosen the experiment; "
            "use `mlflow run --experiment-name` instead"
        )


def _tell_mlflow(mlflow_run: "_MlflowRun", error: BadInput | Killed) -> None:
    """Let the run that ``mlflow run`` made say why nothing was measured."""
    from ttt_mlflow.tracking import keep_killed, publish, store

    run_id, uri = mlflow_run.run_id, store.resolve_tracking_uri(None)
    try:
        if isinstance(error, Killed):
            publish.reject_run(run_id, uri, f"ended by {error} before anything was measured", status="killed")
            keep_killed.start(mlflow_run.run_id, mlflow_run.pid)
        else:
            publish.reject_run(run_id, uri, str(error))
    except PublishFailed as failed:
        _show_error(failed)


def _mlflow_command() -> str:
    """The mlflow of this environment, which need not be the shell's."""
    beside = Path(sys.executable).with_name("mlflow")
    return shlex.quote(str(beside)) if beside.exists() else "mlflow"

"""Carries out the commands that measure, with signals, a parent `mlflow run`, publishing and the exit code."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow.app.output import guard_output, print_error, print_text, show_error
from ttt_mlflow.app.signals import ParentRun, SignalHandler
from ttt_mlflow.app.views import ui_lines
from ttt_mlflow.config import Configuration
from ttt_mlflow.errors import BadInput, DamagedRecord, Killed, PublishFailed
from ttt_mlflow.redaction import without_secrets

if TYPE_CHECKING:
    from ttt_mlflow.app.measure import Result


@dataclass(frozen=True)
class Destination:
    """The requested destination of a record."""

    logdir: str
    tracking_uri: str | None
    experiment_name: str | None


def execute(parse: Callable[[], Configuration], destination: Destination) -> int:
    """Measure the configuration that ``parse`` returns, publish it, and return the exit code.

    Raises BadInput or Killed if nothing has been measured yet.
    """
    return execute_recorded(parse, destination)[1]


def execute_recorded(
    parse: Callable[[], Configuration], destination: Destination, time_imports: bool = True
) -> "tuple[Result, int]":
    """As :func:`execute`; returns the result too, measured completely or not.

    time_imports: record the age of this process as the time of its imports; not if it did something else before.
    """
    parent = ParentRun.of_this_process()
    with SignalHandler() as signals:
        try:
            config = parse()
            if parent:
                _refuse_other_destination(destination)
            return _measure_and_publish(config, destination, parent, signals, time_imports)
        except (BadInput, Killed) as error:
            if parent:
                tell_mlflow(parent, error)
            raise


def _measure_and_publish(
    config: Configuration,
    destination: Destination,
    parent: ParentRun | None,
    signals: SignalHandler,
    time_imports: bool,
) -> "tuple[Result, int]":
    guard_output()
    from rich.console import Console

    from ttt_mlflow.app.measure import Result, carry_out, new_record, plan_of
    from ttt_mlflow.tracking import keep_killed, publish, store

    imports_s = process_age_s() if time_imports else None
    plan = plan_of(config)
    uri = store.resolve_tracking_uri(destination.tracking_uri)
    unreachable = store.check_tracking(uri)
    record = new_record(plan, destination.logdir)
    publish.note_target(record, uri, parent.run_id if parent else None, destination.experiment_name)
    if unreachable:
        _warn_unreachable(without_secrets(uri), unreachable, record.path)

    result, exit_code = Result(record), 0
    try:
        result = carry_out(plan, record, Console(), imports_s)
        if result.failure:
            show_error(result.failure)
            exit_code = result.failure.exit_code
    except Killed as killed:
        print_error(f"Stopped by {killed}; what was measured is recorded.")
        exit_code = killed.exit_code
        if parent:
            keep_killed.start(parent.run_id, parent.pid)
    signals.stopping = True  # from here on, a signal does not interrupt publishing

    try:
        published = publish.publish(record, uri, parent.run_id if parent else None, destination.experiment_name)
    except PublishFailed as error:
        show_error(error)
        print_text(result.summary())
        return result, exit_code or error.exit_code
    place = published.tracking_uri
    print_text(result.summary(f"{record.path}, MLflow run {published.run_id} in {place}"))
    for note in published.notes:
        print_error(note)
    for line in ui_lines(published, config.kind):
        print_text(line)
    if parent and published.experiment_id == store.MLFLOW_DEFAULT_ID:
        print_text(
            "`mlflow run` put this run into MLflow's experiment Default; "
            f"`mlflow run . --experiment-name {store.DEFAULT_EXPERIMENT}` puts it into {store.DEFAULT_EXPERIMENT}"
        )
    return result, exit_code


def _warn_unreachable(place: str, reason: str, folder: Path) -> None:
    later = f"`ttt-mlflow sync {shlex.quote(str(folder))}` publishes it later"
    print_error(f"Warning: tracking_uri={place}: cannot be reached ({reason})")
    print_error(f"Warning: the measurement is kept in {folder}; {later}")


def _refuse_other_destination(asked: Destination) -> None:
    """Refuse a destination inside `mlflow run`: its run is in a store and an experiment already."""
    if asked.tracking_uri:
        raise BadInput(
            f"tracking_uri={without_secrets(asked.tracking_uri)}: `mlflow run` has already chosen the store; "
            "set MLFLOW_TRACKING_URI before `mlflow run` instead"
        )
    if asked.experiment_name:
        raise BadInput(
            f"experiment_name={asked.experiment_name}: `mlflow run` has already chosen the experiment; "
            "use `mlflow run --experiment-name` instead"
        )


def tell_mlflow(parent: ParentRun, error: BadInput | DamagedRecord | Killed) -> None:
    """Record in the run that ``mlflow run`` made why nothing was measured."""
    from ttt_mlflow.tracking import keep_killed, publish, store

    uri = store.resolve_tracking_uri(None)
    try:
        if isinstance(error, Killed):
            publish.reject_run(parent.run_id, uri, f"stopped by {error} before anything was measured", status="killed")
            keep_killed.start(parent.run_id, parent.pid)
        else:
            publish.reject_run(parent.run_id, uri, str(error))
    except PublishFailed as failed:
        show_error(failed)


def process_age_s() -> float:
    """Seconds since the start of this process."""
    import psutil

    return time.time() - psutil.Process().create_time()

"""Carries out the commands that measure, with signals, a parent `mlflow run`, publishing and the exit code."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.app.output import guard_output, print_error, print_text, show_error
from ttt_mlflow.app.publishing import Destination, Publishing
from ttt_mlflow.app.signals import ParentRun, SignalHandler
from ttt_mlflow.app.views import ui_lines
from ttt_mlflow.config import Configuration, MicroConfig, RunConfig
from ttt_mlflow.errors import (
    FAULT,
    NOTHING_MEASURED,
    BadInput,
    BeingPublished,
    DamagedRecord,
    Killed,
    PublishFailed,
    TTTError,
    one_line,
)

if TYPE_CHECKING:
    from ttt_mlflow.app.measure import Result
    from ttt_mlflow.micro.plan import MicroPlan
    from ttt_mlflow.record.journal import Journal
    from ttt_mlflow.run.plan import Plan

# What a run may take besides the measurement, generously: `ttt-mlflow janitor` may end what takes longer. Weights from
# a slow disk and a compilation take minutes, and a measurement waits for an idle GPU before it is repeated.
BUILD_S, PROFILE_S, SLACK = 2 * 3600.0, 1800.0, 2.0
COUNTED_S = 24 * 3600.0  # of a count of passes that was given, whose length is not known


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
    with SignalHandler() as signals, Publishing(destination, parent) as publishing, publishing.telling(signals):
        config = parse()
        publishing.start()
        guard_output()
        return _measure_and_publish(config, destination.logdir, publishing, signals, time_imports)


def _measure_and_publish(
    config: Configuration, logdir: str, publishing: Publishing, signals: SignalHandler, time_imports: bool
) -> "tuple[Result, int]":
    from rich.console import Console

    from ttt_mlflow.app.measure import Result, carry_out, plan_of

    imports_s = process_age_s() if time_imports else None
    plan = plan_of(config)
    with own_record(plan, logdir) as record:
        result, exit_code = Result(record), 0
        try:
            _begin(record, config, publishing)
            measured = (lambda: publishing.publish_so_far(record)) if plan.used.profile else None
            result = carry_out(plan, record, Console(), imports_s, measured)
            if result.failure:
                show_error(result.failure)
                exit_code = result.failure.exit_code
        except (Killed, KeyboardInterrupt) as ended:  # the second comes from a model: a signal raises Killed here
            killed = ended if isinstance(ended, Killed) else Killed(signal.SIGINT)
            record_killed(record, killed)
            print_error(f"Stopped by {killed}; what was measured is recorded.")
            exit_code = killed.exit_code
            publishing.keep_killed()
        except BadInput:
            raise
        except Exception as error:  # raised again, when the record and its run have an end
            signals.stopping = True
            record_fault(record, error)
            with suppress(TTTError):
                publishing.publish(record)
            raise
    signals.stopping = True  # from here on, a signal does not interrupt publishing
    try:
        of_publishing = _publish_and_tell(result, publishing, config.kind)
        return result, exit_code or of_publishing
    except Exception as error:
        error.add_note(f"what was measured is in {record.path}")
        raise


def _publish_and_tell(result: "Result", publishing: Publishing, kind: str) -> int:
    """Publish, print the summary, and return the exit code of the publication."""
    from ttt_mlflow.tracking import store

    record = result.record
    try:
        published = publishing.publish(record)
    except (PublishFailed, DamagedRecord) as error:
        if isinstance(error, BeingPublished):
            print_text(str(error))  # another process does it, which is no failure
        else:
            show_error(error)
        print_text(result.summary())
        return error.exit_code
    place = published.tracking_uri
    print_text(result.summary(f"{record.path}, MLflow run {published.run_id} in {place}"))
    for note in published.notes:
        print_error(note)
    for line in ui_lines(published, kind):
        print_text(line)
    if publishing.taken_over and published.experiment_id == store.MLFLOW_DEFAULT_ID:
        print_text(
            "`mlflow run` put this run into MLflow's experiment Default; "
            f"`mlflow run . --experiment-name {store.DEFAULT_EXPERIMENT}` puts it into {store.DEFAULT_EXPERIMENT}"
        )
    return 0


@contextmanager
def own_record(plan: "Plan | MicroPlan", logdir: str) -> "Iterator[Journal]":
    """A new record for ``plan``. Bad input in the block leaves nothing of it."""
    from ttt_mlflow.app.measure import new_record

    was_there = Path(logdir).exists()
    record = new_record(plan, logdir)
    record.set_used(plan.used.model_dump(mode="json"))  # the run's name has what was chosen for this machine
    record.update_tags({names.TAG_KIND: plan.used.kind})
    try:
        yield record
    except BadInput:
        shutil.rmtree(record.path)
        if not was_there and not any(record.path.parent.iterdir()):
            record.path.parent.rmdir()
        raise


def _begin(record: "Journal", config: Configuration, publishing: Publishing) -> None:
    from rich.console import Console

    with Console(stderr=True).status("beginning the MLflow run"):
        publishing.begin(record, may_take_s(config))


def record_killed(record: "Journal", killed: Killed) -> None:
    """Record the end of a run that was stopped before the measurement recorded its own."""
    if record.status["status"] == "running":
        message = f"stopped by {killed} {NOTHING_MEASURED}"
        record.update_tags({names.TAG_STATUS: "killed", names.TAG_MESSAGE: message})
        record.set_status("killed", message, killed.exit_code)


def record_fault(record: "Journal", error: Exception) -> None:
    """Record the end of a run that ended by an unexpected error before the measurement could record its own."""
    if record.status["status"] == "running":
        message, exit_code = one_line(error), FAULT
        if isinstance(error, TTTError):
            message, exit_code = str(error), error.exit_code
        record.update_tags({names.TAG_STATUS: "error", names.TAG_MESSAGE: message})
        record.set_status("error", message, exit_code)
    error.add_note(f"its record is {record.path}")


def may_take_s(config: Configuration) -> float:
    """Seconds that a run may take, from its beginning to its publication."""
    measured = BUILD_S
    if isinstance(config, RunConfig):
        measured += SLACK * config.max_seconds * (1 + config.retry_invalid) + PROFILE_S * config.retry_invalid
        if config.warmup is not None or config.repeats is not None:
            measured += COUNTED_S
        measured += PROFILE_S * len(config.profile)
    elif isinstance(config, MicroConfig):
        measured += COUNTED_S + SLACK * config.seconds + PROFILE_S * len(config.profile)
    return measured


def process_age_s() -> float:
    """Seconds since the start of this process, whatever was done to the clock since."""
    from ttt_mlflow.record.process import age_s

    return age_s()

"""Ends runs in which nothing is measured or published, and says why."""

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.config.run_name import MOST
from ttt_mlflow.errors import DamagedRecord, PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.process import has_ended, this_process
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.own_run import known_run
from ttt_mlflow.tracking.run_values import DESCRIPTION, MLFLOW_STATUS, RUN_NAME
from ttt_mlflow.tracking.store import (
    PATIENCE,
    QUIET,
    check_tracking,
    clipped,
    explain,
    known_errors,
    missing_database,
    quiet_loggers,
    settings,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KINDS = ("decode", "prefill", "micro", "compare", "sweep")


def reject_run(run_id: str, tracking_uri: str, message: str, status: str = "error") -> None:
    """Record in ``run_id``, which ``mlflow run`` made, why nothing was measured, and close the run.

    ``message`` has one line for each fault. The run's name and description say what was refused. Raises
    :class:`PublishFailed`.
    """
    message = without_secrets(message)
    faults = message.splitlines()
    name = "stopped before measuring" if status == "killed" else f"refused: {_subjects(faults)}"
    described = "\n".join([f"**{name}**", "", "Nothing was measured:", "", *(f"- {fault}" for fault in faults)])
    tags = {
        names.TAG_STATUS.name: status,
        names.TAG_MESSAGE.name: message,
        DESCRIPTION: described,
        RUN_NAME: clipped(name, MOST),
    }
    with settings(QUIET), settings(PATIENCE):
        from mlflow import MlflowClient

        try:
            with quiet_loggers():
                client = MlflowClient(tracking_uri)
                _end(client, run_id, tags | _kind_tags(client.get_run(run_id)), MLFLOW_STATUS[status])
        except known_errors() as error:
            place = without_secrets(tracking_uri)
            raise PublishFailed(f"the run {run_id} in {place} could not be marked: {explain(error)}") from None


def end_damaged(journal: Journal, tracking_uri: str, run_id: str | None, damage: DamagedRecord) -> None:
    """End the run that was begun for a damaged record, if it is still RUNNING: nothing will be published in it.

    A store that does not answer is no fault of its own here: the janitor ends the run later. Nor is another process
    that publishes the record at this moment: it sees for itself.
    """
    with suppress(DamagedRecord):  # of the target: no run is known then
        run_id = run_id or journal.target.get("run_id")
    if run_id is None:
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(journal.publishing())
        except PublishFailed:
            return
        except (OSError, DamagedRecord):
            pass  # damaged, or not writable: nobody publishes it
        stack.enter_context(settings(QUIET))
        stack.enter_context(settings(PATIENCE))
        if check_tracking(tracking_uri) or missing_database(tracking_uri):
            return
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri)
        with suppress(DamagedRecord, *known_errors()), quiet_loggers():
            run = known_run(client, journal, run_id)
            if run is not None and run.info.status == "RUNNING" and not _is_written(run):
                reason = f"not published, the record is damaged: {damage}"
                tags = {names.TAG_STATUS.name: "error", names.TAG_MESSAGE.name: reason}
                _end(client, run_id, tags, MLFLOW_STATUS["error"])


def _is_written(run: "Run") -> bool:
    """Whether another process may still be writing the run."""
    try:
        process = json.loads(run.data.tags.get(names.TAG_PROCESS.name, "null"))
        until = datetime.fromisoformat(run.data.tags.get(names.TAG_ALIVE_UNTIL.name, "1970-01-01T00:00:00+00:00"))
        ended = process is None or process == this_process() or has_ended(process)
        return until > datetime.now(UTC) if ended is None else not ended
    except (ValueError, TypeError, KeyError):  # nothing that a process of ours wrote
        return False


def _end(client: "MlflowClient", run_id: str, tags: dict[str, str], status: str) -> None:
    from mlflow.entities import RunTag
    from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

    client.log_batch(run_id, tags=[RunTag(name, clipped(text, MAX_TAG_VAL_LENGTH)) for name, text in tags.items()])
    client.set_terminated(run_id, status)


def _subjects(faults: Sequence[str]) -> str:
    """What each fault is about: ``batch=0, foo=1`` for lines such as ``batch=0: not allowed; …``."""
    return ", ".join(fault.partition(": ")[0] for fault in faults)


def _kind_tags(run: "Run") -> dict[str, str]:
    """The kind of a run that ``mlflow run`` made, from its entry point and mode; empty if they name none."""
    entry_point = run.data.tags.get("mlflow.project.entryPoint", "")
    kind = run.data.params.get("mode") if entry_point == RunConfig.entry_point else entry_point
    return {names.TAG_KIND.name: kind} if kind in KINDS else {}

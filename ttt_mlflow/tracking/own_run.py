"""Finds or makes the one MLflow run of a record. A run is the record's if its tag ``ttt.journal_id`` says so.

The record notes the id of its run. Run ids are unique, so a server that knows the id is the run's server, by whatever
address it was reached.
"""

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.config import CONFIGURATIONS
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.process import this_process
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.experiments import experiment_named
from ttt_mlflow.tracking.refusal import CODES, FORBIDDEN
from ttt_mlflow.tracking.run_values import RUN_NAME, milliseconds, record_id
from ttt_mlflow.tracking.store import (
    DEFAULT_EXPERIMENT,
    MLFLOW_DEFAULT_ID,
    user_name,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NO_SUCH_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # also for an id that this store would not give
EXPERIMENTS_PER_SEARCH = 500
PUBLISHING_FOR = timedelta(hours=1)  # how long a run that is being published counts as living


def note_target(journal: Journal, tracking_uri: str, run_id: str | None, experiment_name: str | None) -> None:
    """Store in the journal where it is to be published.

    Explicit arguments take precedence, then the environment, then what the journal already has, then the experiment
    ``ttt-mlflow``. A record of version 0.1 that names no experiment stays without one: it may have been begun in
    MLflow's default experiment.
    """
    tracking_uri = without_secrets(tracking_uri)
    earlier = journal.target
    name, experiment_id = named_experiment(experiment_name)
    if not name and not experiment_id:
        name = earlier.get("experiment_name")
        experiment_id = earlier.get("experiment_id") if earlier.get("tracking_uri") == tracking_uri else None
    if not earlier and not name and not experiment_id:
        name = DEFAULT_EXPERIMENT
    journal.set_target(tracking_uri, run_id or earlier.get("run_id"), name, experiment_id)


def named_experiment(given: str | None) -> tuple[str | None, str | None]:
    """The name, or else the id, of the experiment that ``given`` or the environment names. Both None: neither does."""
    name = given or os.environ.get("MLFLOW_EXPERIMENT_NAME") or None
    return name, None if name else os.environ.get("MLFLOW_EXPERIMENT_ID") or None


def known_run(client: "MlflowClient", journal: Journal, run_id: str | None) -> "Run | None":
    """The run with this id, if it is on this server, was not deleted, and is the record's or may become so."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in NO_SUCH_RUN:
            return None
        raise
    return run if is_own(journal, run) else None


def is_own(journal: Journal, run: "Run") -> bool:
    """Whether the run was not deleted, and is the record's or may become so."""
    holder = run.data.tags.get(names.TAG_JOURNAL_ID.name)
    own = holder == record_id(journal) or (holder is None and _is_made_for_us(run))
    return run.info.lifecycle_stage == "active" and own


def runs_with_ids(client: "MlflowClient", ids: Sequence[str], experiment_ids: Sequence[str]) -> dict[str, "Run"]:
    """Those of the runs that are in these experiments, by id: one search for all."""
    found = client.search_runs(
        list(experiment_ids), f"attributes.run_id IN ({', '.join(map(repr, ids))})", max_results=len(ids)
    )
    return {run.info.run_id: run for run in found}


def _is_made_for_us(run: "Run") -> bool:
    """Whether ``mlflow run`` made the run for one of our commands, and nothing was measured in it."""
    tags = run.data.tags
    entry_point = tags.get("mlflow.project.entryPoint")
    return tags.get("mlflow.source.type") == "PROJECT" and entry_point in CONFIGURATIONS and not run.data.metrics


def found_or_made(client: "MlflowClient", journal: Journal) -> "Run":
    """The run that carries the record's id, in whatever experiment, or a new one in the experiment of the target."""
    target = journal.target
    if target["experiment_name"]:
        experiment_id = experiment_named(client, target["experiment_name"])
    else:
        experiment_id = str(target["experiment_id"] or MLFLOW_DEFAULT_ID)
    anywhere = _runs_anywhere(client, journal, experiment_id)
    runs = [run for run in anywhere if run.info.experiment_id == experiment_id] or anywhere
    if not runs:
        if not target["experiment_name"] and not target["experiment_id"]:  # a record of version 0.1, begun nowhere
            experiment_id = experiment_named(client, DEFAULT_EXPERIMENT)
        made = client.create_run(
            experiment_id,
            start_time=milliseconds(journal.status["started_at"]),
            run_name=journal.run_name,
            tags={
                names.TAG_JOURNAL_ID.name: record_id(journal),
                **lives_on(),
                "mlflow.user": user_name(),
                "mlflow.source.name": "ttt-mlflow",
                "mlflow.source.type": "LOCAL",
            },
        )
        # If an answer is lost, the client repeats the request, and the server has made two runs. The same happens if
        # two hosts publish copies of the record at once.
        runs = _runs_of(client, journal, [experiment_id]) or [made]
    run, *ghosts = runs
    for ghost in ghosts:
        _remove(client, ghost, run.info.run_id)
    return run


def _remove(client: "MlflowClient", ghost: "Run", kept: str) -> None:
    """Delete ``ghost``, made beside the run ``kept`` for one record. Where that is not allowed, it is no record's run.

    MLflow lets a user with the permission EDIT make runs, and not delete even those. The record's id is taken off the
    ghost last, so that whoever is interrupted before that finds it again.
    """
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException

    ghost_id = ghost.info.run_id
    try:
        client.delete_run(ghost_id)
    except MlflowException as error:
        if CODES.get(error.error_code) != FORBIDDEN:
            raise
        said = {
            RUN_NAME: "made twice",
            names.TAG_STATUS.name: "killed",
            names.TAG_MESSAGE.name: f"a repeated request made this run beside {kept}, which holds the measurement; "
            "this one is empty, and the server lets a user with the permission MANAGE delete it",
        }
        client.log_batch(ghost_id, tags=[RunTag(name, text) for name, text in said.items()])
        client.set_terminated(ghost_id, "KILLED")
        client.delete_tag(ghost_id, names.TAG_JOURNAL_ID.name)


def lives_on() -> dict[str, str]:
    """The tags that tell others that this process is publishing the run."""
    until = datetime.now(UTC) + PUBLISHING_FOR
    process = {**this_process(), "publishes": True}
    return {names.TAG_ALIVE_UNTIL.name: until.isoformat(), names.TAG_PROCESS.name: json.dumps(process)}


def holds_newer(run: "Run", until: str) -> bool:
    """Whether the run has a newer copy of the record than one whose last entry was at ``until``."""
    held = run.data.tags.get(names.TAG_RECORDED_UNTIL.name)
    return held is not None and datetime.fromisoformat(held) > datetime.fromisoformat(until)


def _runs_anywhere(client: "MlflowClient", journal: Journal, experiment_id: str) -> list["Run"]:
    """The record's runs in this experiment and all others: it may have been published under another one's name."""
    found: list[Run] = []
    ids, token = [experiment_id], None
    while True:
        page = client.search_experiments(max_results=EXPERIMENTS_PER_SEARCH, page_token=token)
        ids += [str(one.experiment_id) for one in page if str(one.experiment_id) != experiment_id]
        token = page.token
        if not token:
            break
    for first in range(0, len(ids), EXPERIMENTS_PER_SEARCH):
        found += _runs_of(client, journal, ids[first : first + EXPERIMENTS_PER_SEARCH])
    return sorted(found, key=_order)


def _runs_of(client: "MlflowClient", journal: Journal, experiment_ids: Sequence[str]) -> list["Run"]:
    """The runs that carry the record's id, the one to keep first: the same one for everyone who looks."""
    return sorted(client.search_runs(list(experiment_ids), _carries(record_id(journal))), key=_order)


def _order(run: "Run") -> tuple[bool, bool, int, str]:
    is_published = names.TAG_RECORDED_UNTIL.name in run.data.tags
    return not is_published, not run.data.metrics, run.info.start_time, run.info.run_id


def _carries(identity: str) -> str:
    """MLflow's filter for the runs of one record. Raises BadInput for what cannot be the id of one."""
    if not re.fullmatch(r"[\w.-]+", identity):
        raise BadInput(f"{identity!r}: not the id of a record; the folder of a record has its id as name")
    return f"tags.`{names.TAG_JOURNAL_ID.name}` = '{identity}'"


def parent_tag(client: "MlflowClient", journal: Journal, experiment_id: str) -> dict[str, str]:
    """MLflow's tag that puts the run below its parent. Empty without a parent, and before the parent is published."""
    parent = journal.tags.get(names.TAG_PARENT_JOURNAL_ID.name)
    if parent is None:
        return {}
    runs = client.search_runs([experiment_id], _carries(parent), max_results=1, order_by=["start_time ASC"])
    return {"mlflow.parentRunId": runs[0].info.run_id} if runs else {}

"""The runs of a sweep in a store: its parent, which is the first of its experiment, and the parent's children."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow import names
from ttt_mlflow.config.run_name import MOST
from ttt_mlflow.config.sweep import SweepConfig
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.at_work import AtWork, who_works_on
from ttt_mlflow.tracking.begin import asking_client, living_tags, place_of
from ttt_mlflow.tracking.own_run import named_experiment
from ttt_mlflow.tracking.query import PAGE, PARENT
from ttt_mlflow.tracking.run_values import DESCRIPTION, MLFLOW_STATUS, RUN_NAME
from ttt_mlflow.tracking.store import DEFAULT_EXPERIMENT, clipped
from ttt_mlflow.tracking.stuck_runs import Here, facts_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# what an earlier end of the parent has left, and what does not hold while it goes on
OF_AN_END = (names.TAG_STATUS.name, names.TAG_MESSAGE.name, names.TAG_RECORDED_UNTIL.name)


@dataclass(frozen=True)
class ChildRun:
    """A child of a sweep's parent, as a store has it. status: ok, oom, error, killed, or MLflow's in small letters."""

    run_id: str
    status: str
    started_ms: int
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class SweepRuns:
    """A sweep as a store has it. url: a link to the parent. status: MLflow's, for example RUNNING.

    at_work: the process that measures it, or may; None if there is none.
    """

    run_id: str
    experiment_id: str
    journal_id: str
    name: str
    status: str
    url: str
    children: Sequence[ChildRun]
    at_work: AtWork | None = None


def find_sweep(tracking_uri: str, experiment_name: str | None, sweep_id: str) -> SweepRuns | None:
    """The sweep with this id in the experiment that is asked for; None if the experiment has none, or does not exist.

    Raises BadInput if the server refuses, and PublishFailed if it does not answer.
    """
    name, experiment_id = named_experiment(experiment_name)
    name = name or (None if experiment_id else DEFAULT_EXPERIMENT)
    where = f"tracking_uri={without_secrets(tracking_uri)}"
    with asking_client(tracking_uri, where) as client:
        if name:
            experiment = client.get_experiment_by_name(name)
            if experiment is None or experiment.lifecycle_stage == "deleted":
                return None
            experiment_id = str(experiment.experiment_id)
        assert experiment_id
        condition = f"tags.`{names.TAG_SWEEP_ID.name}` = '{sweep_id}' and tags.`{names.TAG_KIND.name}` = 'sweep'"
        first = client.search_runs([experiment_id], condition, max_results=1, order_by=["start_time ASC"])
        if not first:
            return None
        run, info = first[0], first[0].info
        return SweepRuns(
            info.run_id,
            experiment_id,
            run.data.tags.get(names.TAG_JOURNAL_ID.name, ""),
            info.run_name or "a sweep",
            info.status,
            link_to(tracking_uri, experiment_id, info.run_id),
            [_child(one) for one in _children(client, experiment_id, info.run_id)],
            who_works_on(facts_of(run), Here.and_now()),
        )


def resume_sweep(journal: Journal, tracking_uri: str, alive_s: float) -> None:
    """Let the parent's run, whose id the target of ``journal`` has, be RUNNING again. Raises as :func:`find_sweep`."""
    from mlflow.entities import RunTag

    run_id = str(journal.target["run_id"])
    with asking_client(tracking_uri, place_of(journal, tracking_uri)) as client:
        run = client.get_run(run_id)
        client.update_run(run_id, status="RUNNING")
        for name in OF_AN_END:
            if name in run.data.tags:
                client.delete_tag(run_id, name)
        client.log_batch(run_id, tags=[RunTag(*tag) for tag in living_tags(journal, alive_s).items()])


def tell_resumption(
    tracking_uri: str,
    run_id: str,
    parent: Mapping[str, str],
    description: str = "",
    status: str | None = None,
    message: str | None = None,
) -> None:
    """Let the run that `mlflow run` made for a resumption, in which nothing is measured, say so, and end it.

    parent: the id, the name and the link of the sweep's parent, by ``run_id``, ``name`` and ``url``. status: None as
    long as the sweep goes on. Then the run says what it is, and does so too if the sweep is killed.
    """
    from mlflow.entities import RunTag
    from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

    says = "measured nothing itself: it resumed" if status else "measures nothing itself: it resumes"
    link = f"**This run {says} the sweep [{parent['name']}]({parent['url']})**"
    tags = {
        names.TAG_KIND.name: SweepConfig.entry_point,
        names.TAG_ENTRY_POINT.name: SweepConfig.entry_point,
        names.TAG_RESUMES.name: parent["run_id"],
        DESCRIPTION: clipped(f"{link}, run `{parent['run_id']}`.\n\n{description}", MAX_TAG_VAL_LENGTH),
        RUN_NAME: clipped(f"resumed: {parent['name']}", MOST),
    }
    if status:
        tags[names.TAG_STATUS.name] = status
    if message:
        tags[names.TAG_MESSAGE.name] = clipped(message, MAX_TAG_VAL_LENGTH)
    with asking_client(tracking_uri, f"tracking_uri={without_secrets(tracking_uri)}") as client:
        client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
        if status:
            client.set_terminated(run_id, MLFLOW_STATUS[status])


def link_to(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """A link to a run for MLflow's UI. Of a store that is no server, it has no address: it holds inside any UI."""
    base = without_secrets(tracking_uri).rstrip("/") if urlsplit(tracking_uri).scheme in ("http", "https") else ""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}"


def _children(client: "MlflowClient", experiment_id: str, run_id: str) -> list["Run"]:
    found: list[Run] = []
    token = None
    while True:
        condition = f"tags.`{PARENT}` = '{run_id}'"
        page = client.search_runs([experiment_id], condition, max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _child(run: "Run") -> ChildRun:
    tags = dict(run.data.tags)
    status = tags.get(names.TAG_STATUS.name, str(run.info.status).lower())
    kept = {name: text for name, text in tags.items() if name.startswith("ttt.")}
    return ChildRun(run.info.run_id, status, run.info.start_time, kept, dict(run.data.metrics))

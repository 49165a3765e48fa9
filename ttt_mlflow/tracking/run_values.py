"""What of a record goes to its MLflow run as parameters, metrics and tags, and what of it the run lacks.

A point of a metric has the time of the run's begin, so that it is the same whenever it is sent, and from whichever copy
of the record. Points of series have the times that the record gives them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from ttt_mlflow import names
from ttt_mlflow.config.sweep import SweepConfig
from ttt_mlflow.record.journal import JOURNAL_ID, Journal
from ttt_mlflow.tracking.derived import missing_metrics, missing_tags
from ttt_mlflow.tracking.run_color import RUN_COLOR
from ttt_mlflow.tracking.store import clipped

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

GIT_TAGS = tuple(tag.name for tag in (names.TAG_GIT_COMMIT, names.TAG_GIT_BRANCH, names.TAG_GIT_REPO_URL))
LOGGED_ARTIFACTS = "mlflow.loggedArtifacts"  # MLflow's UI finds tables by this tag
DESCRIPTION, RUN_NAME = "mlflow.note.content", "mlflow.runName"  # MLflow's own tags; the second one renames the run
MLFLOW_STATUS = {"ok": "FINISHED", "oom": "FAILED", "error": "FAILED", "killed": "KILLED"}
AT_THE_END = (names.TAG_STATUS.name, names.TAG_MESSAGE.name, names.TAG_RECORDED_UNTIL.name)
# MLflow's limits of one log_batch call
ENTRIES_PER_CALL, PARAMS_PER_CALL, TAGS_PER_CALL = 1000, 100, 100
# Points of all series of the GPU together. With the metrics, parameters and tags of a run they fit into two calls.
SYSTEM_POINTS = 1400
SYSTEM = "system/"


class MetricPoint(NamedTuple):
    """A point as MLflow stores it. timestamp: ms since 1970."""

    name: str
    timestamp: int
    step: int
    value: float


@dataclass(frozen=True)
class RunValues:
    """The values of a record for its run. points: in the order in which the run is to list them."""

    name: str
    params: dict[str, str]
    points: Sequence[MetricPoint]
    tags: dict[str, str]


def values_of(journal: Journal) -> RunValues:
    """Everything that a record that has ended says about its run."""
    tags = tags_of(journal) | {names.TAG_RECORDED_UNTIL.name: recorded_until(journal)}
    if _has_kernels(journal):
        tags[LOGGED_ARTIFACTS] = "[]"
    return RunValues(journal.run_name, journal.params, points_of(journal), tags)


def values_so_far(journal: Journal) -> RunValues:
    """The values of a run that goes on. Neither its end nor what depends on its end is among them."""
    tags = {name: text for name, text in journal.tags.items() if name not in AT_THE_END}
    tags[names.TAG_ENTRY_POINT.name] = journal.entry_point
    if journal.description:  # of a sweep, which has one from its beginning
        tags[DESCRIPTION] = journal.description
    return RunValues(journal.run_name, journal.params, points_of(journal), tags)


def record_id(journal: Journal) -> str:
    """The id that the record was given, also in a copy whose folder has another name.

    A folder whose name is an id, and another one, is a record of its own. A sweep's parent is the exception: it may go
    on as the parent that a store has.
    """
    recorded = journal.tags.get(names.TAG_JOURNAL_ID.name, "")
    is_copy = JOURNAL_ID.fullmatch(journal.journal_id) is None
    may_differ = is_copy or journal.tags.get(names.TAG_KIND.name) == SweepConfig.entry_point
    return recorded if may_differ and JOURNAL_ID.fullmatch(recorded) else journal.journal_id


def recorded_until(journal: Journal) -> str:
    """How new this copy of the record is: the time of the run's end, in UTC."""
    return datetime.fromisoformat(journal.status["ended_at"]).astimezone(UTC).isoformat()


def tags_of(journal: Journal) -> dict[str, str]:
    """The tags of the MLflow run that the record becomes."""
    status = journal.status
    tags = {**journal.tags, names.TAG_JOURNAL_ID.name: record_id(journal), names.TAG_STATUS.name: status["status"]}
    tags[names.TAG_ENTRY_POINT.name] = journal.entry_point
    if status["message"]:
        tags[names.TAG_MESSAGE.name] = status["message"]
    if journal.description:
        tags[DESCRIPTION] = journal.description
    return tags | missing_tags(journal.params, tags)


def points_of(journal: Journal) -> list[MetricPoint]:
    """Metrics, then series, those of the headline first: MLflow's pages show what was logged first."""
    started_at = milliseconds(journal.status["started_at"])
    kind = tags_of(journal)[names.TAG_KIND.name]
    numbers = journal.metrics | missing_metrics(kind, journal.params, journal.metrics)
    values = [MetricPoint(name, started_at, 0, value) for name, value in numbers.items()]
    points = [
        MetricPoint(name, when, step, value)
        for name, rows in _thinned(journal.series).items()
        for when, step, value in rows
    ]
    mode = journal.settings.get("mode")
    return sorted(values + points, key=lambda point: _place(point.name, mode))


def _thinned(series: Mapping[str, Sequence[names.Point]]) -> dict[str, Sequence[names.Point]]:
    """Every n-th point of the GPU's series, and the last one, so that there are few enough. Others are results."""
    count = sum(len(rows) for name, rows in series.items() if name.startswith(SYSTEM))
    every = math.ceil(count / SYSTEM_POINTS) or 1
    return {
        name: [row for index, row in enumerate(rows) if index % every == 0 or index == len(rows) - 1]
        if name.startswith(SYSTEM)
        else rows
        for name, rows in series.items()
    }


def _place(name: str, mode: str | None) -> int:
    """Where the metric ``name`` belongs in the log: the headline of the run's mode, its interval, then all others."""
    headline = names.PREFILL_TOKENS_PER_S if mode == "prefill" else names.DECODE_TOKENS_PER_S
    first = [headline.name, headline.ci_low.name, headline.ci_high.name]
    if name in first:
        return first.index(name)
    return len(first) + (not name.startswith(f"{names.KERNEL_US.name}/"))


# What the run lacks


def missing(client: "MlflowClient", run: "Run", values: RunValues) -> RunValues:
    """What of ``values`` the run does not have. ``run``: as it is on the server."""
    held = run.data.params
    params = {name: text for name, text in values.params.items() if name not in held}
    tags = _missing_tags(run.data.tags, values.tags | {RUN_NAME: values.name})
    return replace(values, params=params, tags=tags, points=_missing_points(client, run, values.points))


def _missing_tags(held: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The git tags that ``mlflow run`` wrote describe the project that it ran; a person may have chosen a color."""
    from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

    tags = {name: clipped(text, MAX_TAG_VAL_LENGTH) for name, text in wanted.items()}
    if LOGGED_ARTIFACTS in tags:
        tags[LOGGED_ARTIFACTS] = _with_table(held.get(LOGGED_ARTIFACTS, "[]"), names.ARTIFACT_KERNELS.path)
    kept = (*GIT_TAGS, RUN_COLOR)
    return {name: text for name, text in tags.items() if held.get(name) != text and not (name in kept and name in held)}


def _missing_points(client: "MlflowClient", run: "Run", points: Sequence[MetricPoint]) -> list[MetricPoint]:
    """The points that the run does not have.

    A run tells the last point of each metric. If that is ours, the others were sent before it. If the run has another
    one, all its points are read: an earlier publication sent some of them, or a copy of the record has fewer.
    """
    last = {metric.key: metric for metric in run.data.to_proto().metrics}
    by_name: dict[str, list[MetricPoint]] = {}
    for point in points:
        by_name.setdefault(point.name, []).append(point)
    wanted: list[MetricPoint] = []
    for name, own in by_name.items():
        held = last.get(name)
        if held is None:
            wanted += own
        elif len(own) == 1 and own[0].step == held.step == 0:
            wanted += _changed(own[0], held)
        elif max(own, key=lambda point: (point.step, point.timestamp, point.value)) != _point(held):
            sent = {_point(one) for one in client.get_metric_history(run.info.run_id, name)}
            wanted += [point for point in own if point not in sent]
    return wanted


def _point(metric: "Metric") -> MetricPoint:
    return MetricPoint(metric.key, metric.timestamp, metric.step, metric.value)


def _changed(own: MetricPoint, held: "Metric") -> list[MetricPoint]:
    """Nothing if the run has the value, at whatever time; else a point that is newer than the one that it has."""
    if math.isclose(held.value, own.value, rel_tol=1e-12):
        return []
    return [own._replace(timestamp=max(own.timestamp, held.timestamp + 1))]


def _has_kernels(journal: Journal) -> bool:
    return (journal.artifacts / names.ARTIFACT_KERNELS.path).is_file()


def _with_table(listed: str, path: str) -> str:
    """MLflow's list of a run's logged artifacts with the table ``path``, as its ``log_table`` writes it."""
    tables, table = json.loads(listed), {"path": path, "type": "table"}
    return json.dumps(tables if table in tables else [*tables, table])


# Sending


def send_values(client: "MlflowClient", run_id: str, values: RunValues) -> None:
    """Write the values in as few calls as the limits allow, the tags last: they say what the numbers mean."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    params = [Param(name, clipped(text, MAX_PARAM_VAL_LENGTH)) for name, text in values.params.items()]
    metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in values.points]
    tags = [RunTag(name, text) for name, text in values.tags.items()]
    while params or metrics or tags:
        some, params = params[:PARAMS_PER_CALL], params[PARAMS_PER_CALL:]
        most = ENTRIES_PER_CALL - len(some)
        points, metrics = metrics[:most], metrics[most:]
        most = 0 if params or metrics else min(TAGS_PER_CALL, most - len(points))
        marks, tags = tags[:most], tags[most:]
        client.log_batch(run_id, points, some, marks)


def milliseconds(iso: str) -> int:
    """The time in ms since 1970, as MLflow stores it."""
    return round(datetime.fromisoformat(iso).timestamp() * 1000)

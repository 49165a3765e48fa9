"""MLflow's filter syntax, also for records on this disk and for runs that lack what their parameters determine."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ttt_mlflow.errors import BadInput
from ttt_mlflow.names import BATCH, GENLEN, PROMPTLEN, TAG_KIND, TAG_METHOD
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.tracking.run_values import MLFLOW_STATUS, milliseconds, tags_of
from ttt_mlflow.tracking.store import explain

LIKE_THIS = "write it like params.batch = '64' AND metrics.decode_tokens_per_s > 1000"

if TYPE_CHECKING:
    from mlflow.entities import Run

KIND = ("tag", TAG_KIND.name)
# what runs of version 0.1 do not have in a store, as MLflow's parser names it
DETERMINED = {KIND, ("tag", TAG_METHOD.name), *(("metric", metric.name) for metric in (BATCH, PROMPTLEN, GENLEN))}


class RunFilter:
    """A filter in MLflow's syntax, read by MLflow's own parser. Raises BadInput if that does not understand it."""

    def __init__(self, text: str) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.utils.search_utils import SearchUtils

        self.text = text
        try:
            self._clauses: list[dict[str, Any]] = SearchUtils.parse_search_filter(text)
        except MlflowException as error:
            raise BadInput(f"filter={text}: MLflow does not understand it ({explain(error)}); {LIKE_THIS}") from None

    @property
    def names_kind(self) -> bool:
        """Whether the filter asks for kinds of runs itself."""
        return any(_subject(clause) == KIND for clause in self._clauses)

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics that the filter compares."""
        return [key for kind, key in map(_subject, self._clauses) if kind == "metric"]

    @property
    def for_server(self) -> str:
        """The clauses that a server can decide: what it has not stored for older runs is decided here."""
        if not self._decided_here:
            return self.text
        texts = [_clause_text(clause) for clause in self._clauses if clause not in self._decided_here]
        return " AND ".join(text for text in texts if text is not None)

    @property
    def _decided_here(self) -> list[dict[str, Any]]:
        return [one for one in self._clauses if _subject(one) in DETERMINED or _clause_text(one) is None]

    def fits(self, row: RunRow) -> bool:
        """Whether a record on this disk fits, as its MLflow run would, published or not."""
        return self._all_fit(self._clauses, row)

    def fits_from_server(self, row: RunRow) -> bool:
        """The same for a run that fits :attr:`for_server`."""
        return self._all_fit(self._decided_here, row)

    def _all_fit(self, clauses: Sequence[dict[str, Any]], row: RunRow) -> bool:
        if not clauses:
            return True
        from mlflow.utils.search_utils import SearchUtils

        run = _mlflow_run(row)
        return all(SearchUtils._does_run_match_clause(run, clause) for clause in clauses)


def _subject(clause: dict[str, Any]) -> tuple[str, str]:
    return clause["type"], clause["key"]


def _clause_text(clause: dict[str, Any]) -> str | None:
    """The clause as a filter; None for a text with both kinds of quotes, which cannot be written again."""
    kind, key, comparator, value = clause["type"], clause["key"], clause["comparator"], clause["value"]
    if value is None:  # IS NULL
        return f"{kind}.`{key}` {comparator}"
    if kind == "metric" or not isinstance(value, str | tuple | list):
        return f"{kind}.`{key}` {comparator} {value}"
    texts = [value] if isinstance(value, str) else value
    if any("'" in text and '"' in text for text in texts):
        return None
    quoted = [f'"{text}"' if "'" in text else f"'{text}'" for text in texts]
    return f"{kind}.`{key}` {comparator} {quoted[0] if isinstance(value, str) else '(' + ', '.join(quoted) + ')'}"


def _mlflow_run(row: RunRow) -> "Run":
    """The run as MLflow has it, or would have it. An unpublished record has its own id in place of a run's."""
    from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunInputs, RunTag

    local = row.run.journal if isinstance(row.run, LocalRun) else None
    published = local.published if local else {}
    name = row.run.name
    ended_at = local.status.get("ended_at") if local else None
    info = RunInfo(
        run_id=published.get("run_id", row.id),
        experiment_id=published.get("experiment_id", ""),
        user_id="",
        status=MLFLOW_STATUS.get(row.status, "RUNNING"),
        start_time=milliseconds(row.started_at.isoformat()),
        end_time=milliseconds(ended_at) if ended_at else None,
        lifecycle_stage="active",
        artifact_uri=os.fspath(local.artifacts) if local else None,
        run_name=name,
    )
    tags = {**row.tags, **tags_of(local), "mlflow.runName": name} if local else row.tags
    data = RunData(
        metrics=[Metric(name, value, 0, 0) for name, value in row.metrics.items()],
        params=[Param(name, value) for name, value in row.params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    return Run(info, data, RunInputs(dataset_inputs=[]))

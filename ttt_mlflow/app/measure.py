"""The Python interface: measure one configuration, and publish the result."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ttt_mlflow import names
from ttt_mlflow.config import DEFAULT_LOGDIR, Configuration, MicroConfig, RunConfig
from ttt_mlflow.errors import TTTError
from ttt_mlflow.micro.micro_run import MicroRun
from ttt_mlflow.micro.plan import MicroPlan
from ttt_mlflow.micro.plan import make_plan as make_micro_plan
from ttt_mlflow.names import Metric
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.report.micro_table import micro_markdown, micro_text
from ttt_mlflow.report.summary import summary_markdown, summary_text
from ttt_mlflow.run.lifecycle import conduct
from ttt_mlflow.run.model_run import ModelRun
from ttt_mlflow.run.plan import Plan, make_plan
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.run.reserve import reserve

if TYPE_CHECKING:
    from ttt_mlflow.tracking.publish import PublishedRun


@dataclass(frozen=True)
class Result:
    """The result of one run. record: the record on disk. failure: why the run failed, or None."""

    record: Journal
    failure: TTTError | None = None

    @property
    def status(self) -> str:
        """What happened: ok, oom or error."""
        return str(self.record.status["status"])

    @property
    def verdict(self) -> str | None:
        """Whether the numbers can be trusted: valid, invalid or unjudged. None if the run ended before the verdict."""
        return self.record.tags.get(names.TAG_VERDICT.name)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers by name (see docs/names.md). A number that was not measured is absent."""
        return self.record.metrics

    @property
    def folder(self) -> Path:
        """The folder of the record."""
        return self.record.path

    def confidence_interval(self, metric: Metric | str) -> tuple[float, float] | None:
        """The 95 % confidence interval of a throughput, for example of ``decode_tokens_per_s``, or None."""
        name = metric if isinstance(metric, str) else metric.name
        low, high = self.metrics.get(f"{name}_ci_low"), self.metrics.get(f"{name}_ci_high")
        return None if low is None or high is None else (low, high)

    def raise_for_failure(self) -> None:
        """Raise the failure of the run, if it failed."""
        if self.failure:
            raise self.failure

    def summary(self, record_at: str | None = None) -> str:
        """The numbers as a short text. ``record_at``: the location of the record."""
        text = micro_text if self.record.entry_point == MicroConfig.entry_point else summary_text
        return text(self.record, record_at or str(self.folder))

    def _repr_markdown_(self) -> str:
        """The text that a notebook shows."""
        return self.record.description


def measure(
    config: RunConfig | MicroConfig | Mapping[str, object],
    *,
    logdir: Path | str = DEFAULT_LOGDIR,
    console: Console | None = None,
    imports_s: float | None = None,
) -> Result:
    """Measure one configuration in this process, and record it in a new folder in ``logdir``.

    config: a configuration, or a mapping, which becomes a :class:`RunConfig`. console: where progress is shown; None
    shows nothing. imports_s: seconds from the start of the process until now, if that number is meaningful.

    Nothing is published. A run that fails returns a :class:`Result` with the failure. Raises :class:`BadInput`, before
    anything is recorded, for a configuration that cannot be measured here. Signals and standard output are not touched.
    A KeyboardInterrupt is recorded and raised again.
    """
    if isinstance(config, Mapping):
        config = RunConfig.parse(config)
    plan = plan_of(config)
    return carry_out(plan, new_record(plan, logdir), console, imports_s)


def publish(result: Result, *, tracking_uri: str | None = None, experiment_name: str | None = None) -> "PublishedRun":
    """Publish ``result`` as one MLflow run. Returns the run's id and, for a server, its link.

    tracking_uri: an MLflow store or server; None: MLFLOW_TRACKING_URI, else the SQLite file ./mlflow.db.
    experiment_name: None: MLFLOW_EXPERIMENT_NAME, MLFLOW_EXPERIMENT_ID, else the experiment ttt-mlflow.
    Publishing twice adds nothing twice. Raises :class:`ttt_mlflow.errors.PublishFailed`; the record is kept then.
    """
    from ttt_mlflow.tracking import publish as tracking
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    return tracking.publish(result.record, resolve_tracking_uri(tracking_uri), experiment_name=experiment_name)


def plan_of(config: Configuration) -> Plan | MicroPlan:
    """The plan of ``config`` for this machine. Raises BadInput for what is not possible here."""
    if isinstance(config, MicroConfig):
        return make_micro_plan(config)
    assert isinstance(config, RunConfig)
    return make_plan(config)


def new_record(plan: Plan | MicroPlan, logdir: Path | str) -> Journal:
    """A new record for ``plan`` in ``logdir``, with room for its numbers.

    Raises BadInput if ``logdir`` is not writable, or has not enough room.
    """
    record = Journal.create(Path(logdir), plan.asked.model_dump(mode="json"), plan.asked.entry_point)
    reserve(record, plan.room)
    return record


def carry_out(
    plan: Plan | MicroPlan,
    record: Journal,
    console: Console | None = None,
    imports_s: float | None = None,
    measured: Callable[[], None] | None = None,
) -> Result:
    """Carry out ``plan`` and fill ``record``. Killed and KeyboardInterrupt are raised after they are recorded.

    measured: called when the numbers are recorded, before the profiling passes.
    """
    reporter = Reporter(console or Console(quiet=True))
    if imports_s is not None:
        reporter.phases[names.IMPORTS_S] = imports_s
    if isinstance(plan, MicroPlan):
        failure = conduct(MicroRun(plan, record, reporter), record, reporter, micro_markdown, measured)
    else:
        failure = conduct(ModelRun(plan, record, reporter), record, reporter, summary_markdown, measured)
    gc.collect()  # PyTorch's profiler leaves a reference cycle that holds the model; a later run needs the memory
    return Result(record, failure)

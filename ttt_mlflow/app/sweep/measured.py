"""The runs that a sweep has made so far, from this disk and from the store, and which of them count as done."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttt_mlflow import names
from ttt_mlflow.app.sweep.check import Checked
from ttt_mlflow.app.sweep.executors import CPU
from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.finding import Damaged, find_journals
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.tracking.run_values import milliseconds, record_id
from ttt_mlflow.tracking.sweeps import ChildRun, SweepRuns

DONE = ("ok", "oom")


@dataclass(frozen=True)
class Measured:
    """One run of a sweep. status: ok, oom, error, killed or running. started_ms: since 1970.

    run_id: of its MLflow run, if it is published. record: the folder of its record, if it is on this disk.
    """

    status: str
    started_ms: int
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    run_id: str | None = None
    record: Path | None = None

    @property
    def cell(self) -> str:
        return self.tags.get(names.TAG_CELL.name, "")

    @property
    def journal_id(self) -> str:
        return self.tags.get(names.TAG_JOURNAL_ID.name, "")

    @property
    def gpu_name(self) -> str:
        return self.tags.get(names.TAG_GPU_NAME.name, CPU)

    @property
    def verdict(self) -> str | None:
        return self.tags.get(names.TAG_VERDICT.name)

    @property
    def why(self) -> str | None:
        """Why the run failed, or why it is not valid, in one line."""
        said = self.tags.get(names.TAG_MESSAGE.name) if self.status != "ok" else self.tags.get(names.TAG_REASONS.name)
        return " ".join(said.split()) if said else None

    @classmethod
    def of_record(cls, journal: Journal) -> "Measured":
        """Raises DamagedRecord."""
        run = LocalRun(journal)
        tags = {**run.tags, names.TAG_JOURNAL_ID.name: record_id(journal)}
        if (message := journal.status["message"]) is not None:
            tags.setdefault(names.TAG_MESSAGE.name, message)
        published = journal.published.get("run_id")
        started = milliseconds(journal.status["started_at"])
        return cls(run.status, started, tags, run.metrics, published, journal.path)

    @classmethod
    def of_child(cls, child: ChildRun) -> "Measured":
        return cls(child.status, child.started_ms, child.tags, child.metrics, child.run_id)


@dataclass(frozen=True)
class Alike:
    """What a run must share with the sweep to count: the code, the GPU (one of them), and the way of measuring."""

    code: str
    gpu_names: Sequence[str]
    method: str

    def fits(self, run: Measured, checked: Checked) -> bool:
        gpu_names = self.gpu_names if checked.used is None or checked.used.device != "cpu" else (CPU,)
        return (
            run.status in DONE
            and run.tags.get(names.TAG_CONFIG_ID.name) == checked.config_id
            and run.tags.get(names.TAG_CODE_ID.name) == self.code
            and run.tags.get(names.TAG_METHOD.name) == self.method
            and run.gpu_name in gpu_names
        )


@dataclass(frozen=True)
class LocalRecords:
    """The records of a sweep in a folder. parents: the oldest first. children: those of any parent."""

    parents: Sequence[Journal]
    children: Sequence[Journal]
    damaged: Sequence[Damaged]


def local_records(logdir: Path, sweep_id: str) -> LocalRecords:
    """The records of the sweep with this id in ``logdir``."""
    parents: list[Journal] = []
    children: list[Journal] = []
    if not logdir.is_dir():
        return LocalRecords(parents, children, [])
    found = find_journals(logdir)
    damaged = list(found.damaged)
    for journal in found.journals:
        try:
            tags = journal.tags
        except DamagedRecord as error:
            damaged.append(Damaged(journal.path, str(error)))
            continue
        if tags.get(names.TAG_SWEEP_ID.name) == sweep_id:
            (children if names.TAG_CELL.name in tags else parents).append(journal)
    return LocalRecords(parents, children, damaged)


def runs_of(children: Iterable[Journal], stored: SweepRuns | None, answers: bool) -> list[Measured]:
    """The runs of a sweep, each once, the oldest first. children: their records on this disk.

    answers: whether the store was asked. A record that was published counts only while its run is still there.
    """
    there = {run.journal_id: run for run in map(Measured.of_child, stored.children if stored else ())}
    runs = dict(there)
    for journal in children:
        run = Measured.of_record(journal)
        if run.journal_id in there:
            stored_run = there[run.journal_id]
            runs[run.journal_id] = Measured(
                run.status, run.started_ms, run.tags, run.metrics, stored_run.run_id, run.record
            )
        elif not (answers and run.run_id):
            runs[run.journal_id] = run
    return sorted(runs.values(), key=lambda run: run.started_ms)

"""One cell that is to be measured, as it is handed to whatever measures it, and its measurement."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ttt_mlflow import names
from ttt_mlflow.app import job
from ttt_mlflow.app.measure import Result, carry_out, plan_of
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput, Killed
from ttt_mlflow.names import Tags
from ttt_mlflow.record.journal import Journal


@dataclass(frozen=True)
class Task:
    """A cell that is to be measured.

    key: of the cell in its sweep, also where ``cell`` has the paths of another host. sweep_id: empty for a run that
    belongs to no sweep but to another parent. parent: id of the record of the parent. target: where the run belongs
    (see :meth:`Journal.set_target`), so that ``sync`` can publish its record even if the sweep is killed.
    """

    cell: Cell
    key: str
    logdir: Path
    sweep_id: str
    parent: str
    target: Mapping[str, str | None]

    @property
    def tags(self) -> Tags:
        """What the record of the run has from its beginning."""
        of_sweep = {names.TAG_SWEEP_ID: self.sweep_id, names.TAG_CELL: self.key} if self.sweep_id else {}
        return {**of_sweep, names.TAG_PARENT_JOURNAL_ID: self.parent}

    def as_json(self) -> dict[str, Any]:
        return {
            "config": self.cell.config.model_dump(mode="json"),
            "key": self.key,
            "logdir": str(self.logdir),
            "sweep_id": self.sweep_id,
            "parent": self.parent,
            "target": dict(self.target),
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> "Task":
        cell = Cell(RunConfig.parse(value["config"]))
        return cls(cell, value["key"], Path(value["logdir"]), value["sweep_id"], value["parent"], value["target"])


def measure_task(
    task: Task, began: Callable[[Journal], None], console: Console | None = None, imports_s: float | None = None
) -> Result:
    """Measure ``task`` in this process, as `ttt-mlflow run` would, and publish nothing.

    began: is told the record before anything is built. Raises BadInput if nothing could be measured, which leaves no
    record, and Killed after it is recorded.
    """
    plan = plan_of(task.cell.config)
    with job.own_record(plan, str(task.logdir)) as record:
        record.update_tags(task.tags)
        place = task.target
        record.set_target(place["tracking_uri"] or "", None, place["experiment_name"], place["experiment_id"])
        began(record)
        try:
            return carry_out(plan, record, console, imports_s)
        except Killed as killed:
            job.record_killed(record, killed)
            raise
        except BadInput:
            raise
        except Exception as error:  # raised again: the record has an end
            job.record_fault(record, error)
            raise

"""What measures the cells of a sweep: one after the other in this process, on the GPUs of this host, or on a cluster.

An executor takes a configuration and hands back the record of its run. It publishes nothing and decides nothing: which
cells are measured, in which order, and what became of them is the sweep's affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ttt_mlflow.app.sweep.check import Checked
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.record.journal import Journal


@dataclass(frozen=True)
class Task:
    """A cell that is to be measured. tags: what the record of its run is to have from its beginning, by name."""

    cell: Cell
    logdir: Path
    tags: dict[str, str]


@dataclass(frozen=True)
class Ended:
    """A cell that was measured, or that ended early. place: where, for example a GPU.

    record: of its run; None if it ended before it had one. reason: why it failed without recording it, in one line.
    """

    task: Task
    place: str
    record: Journal | None
    reason: str | None = None


class Executor(Protocol):
    """Measures cells in processes or places of its own. It is a context, at whose end all of them have ended.

    width: how many cells are measured at once. cards: the GPUs on which it measures, by name; empty: on CPUs.
    """

    @property
    def width(self) -> int: ...
    @property
    def cards(self) -> Sequence[str]: ...

    def __enter__(self) -> "Executor": ...
    def __exit__(self, *_: object) -> None: ...

    def check(self, cells: Sequence[Cell], try_all: bool) -> list[Checked]:
        """What the place that would measure each cell says of it. Raises BadInput for a place that is not usable."""

    def start(self, task: Task) -> None:
        """Begin to measure ``task`` as soon as a place is free. It is called for ``width`` tasks at most."""

    def running(self) -> list[tuple[Task, str]]:
        """The tasks that have begun, each with its place."""

    def wait(self, seconds: float) -> list[Ended]:
        """The tasks that have ended. It returns as soon as there is one, else after ``seconds``."""

    def stop(self) -> list[Ended]:
        """End what runs, so that it records what it measured. Returns all that had not been handed back."""

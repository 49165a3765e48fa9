"""What measures the cells of a sweep: one after the other in this process, on the GPUs of this host, or on a cluster.

An executor takes a configuration and hands back the record of its run. It publishes nothing and decides nothing: which
cells are measured, in which order, and what became of them is the sweep's affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from ttt_mlflow.record.journal import Journal
from ttt_mlflow.telemetry.gpus import Gpu

if TYPE_CHECKING:  # they import PyTorch
    from ttt_mlflow.app.sweep.check import Checked
    from ttt_mlflow.app.sweep.grid import Cell
    from ttt_mlflow.app.sweep.task import Task

CPU = "CPU"  # the place, and the name of the GPU, of a cell that is measured without a GPU


@dataclass(frozen=True)
class Ended:
    """A cell that was measured, or that ended early. place: where, for example a GPU.

    record: of its run; None if it ended before it had one. reason: why it failed without recording it, in one line.
    lost: why the place does not work any more and is given up, in one line; None if it does.
    """

    task: "Task"
    place: str
    record: Journal | None
    reason: str | None = None
    lost: str | None = None


class Executor(Protocol):
    """Measures cells. It is a context, at whose end all that it started has ended.

    width: how many cells it measures at once; 0 when all places were lost. queues: whether it takes more than that, and
    orders them by itself. gpu_names: the GPUs on which it measures, by name; CPU without one. gpus: those of this host.
    """

    @property
    def width(self) -> int: ...
    @property
    def queues(self) -> bool: ...
    @property
    def gpu_names(self) -> Sequence[str]: ...
    @property
    def gpus(self) -> Sequence[Gpu]: ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def prepare(self) -> None:
        """Begin what the first cell would else wait for, and return at once. It need not be called."""

    def check(self, cells: "Sequence[Cell]") -> "list[Checked]":
        """What the place that would measure each cell says of it. Raises BadInput if there is no such place."""

    def start(self, task: "Task") -> None:
        """Take ``task``. Unless it ``queues``, at most ``width`` tasks are taken and not yet handed back."""

    def running(self) -> "list[tuple[Task, str]]":
        """The tasks that are measured at this moment, each with its place."""

    def wait(self, seconds: float) -> list[Ended]:
        """The tasks that have ended since. It returns as soon as there is one, else after ``seconds``."""

    def stop(self, signum: int) -> list[Ended]:
        """End all, so that each records what it measured. Returns those that had begun and were not handed back."""

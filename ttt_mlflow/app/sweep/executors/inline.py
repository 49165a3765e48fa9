"""Measures one cell after the other in the sweep's own process."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console

from ttt_mlflow.app.sweep.check import Checked, check_run
from ttt_mlflow.app.sweep.executors import CPU, Ended
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.app.sweep.task import Task, measure_task
from ttt_mlflow.errors import BadInput, one_line
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.telemetry.gpus import Gpu, visible_gpus


class InlineExecutor:
    """See :class:`ttt_mlflow.app.sweep.executors.Executor`. It measures on the first GPU, like ``ttt-mlflow run``."""

    queues = False

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._gpus = visible_gpus()[:1]
        self._task: Task | None = None
        self._record: Journal | None = None

    @property
    def width(self) -> int:
        return 1

    @property
    def gpu_names(self) -> Sequence[str]:
        return [gpu.name for gpu in self._gpus] or [CPU]

    @property
    def gpus(self) -> Sequence[Gpu]:
        return self._gpus

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def prepare(self) -> None:
        pass

    def check(self, cells: Sequence[Cell]) -> list[Checked]:
        total = self._gpus[0].total_bytes if self._gpus else None
        return [check_run(cell.config, cell.asks_largest, total) for cell in cells]

    def start(self, task: Task) -> None:
        self._task = task

    def running(self) -> list[tuple[Task, str]]:
        return [(self._task, self._place)] if self._task else []

    def wait(self, seconds: float) -> list[Ended]:
        assert self._task
        reason = None
        try:
            measure_task(self._task, self._began, self._console)
        except BadInput as error:
            self._record, reason = None, " ".join(str(error).splitlines())
        except Exception as error:  # as in a process of its own, it costs one cell
            reason = one_line(error)
        return self._taken(reason)

    def stop(self, signum: int) -> list[Ended]:
        return self._taken(None) if self._task and self._record else []

    def _began(self, record: Journal) -> None:
        self._record = record

    def _taken(self, reason: str | None) -> list[Ended]:
        assert self._task
        ended = Ended(self._task, self._place, self._record, reason)
        self._task = self._record = None
        return [ended]

    @property
    def _place(self) -> str:
        return str(self._gpus[0]) if self._gpus else CPU

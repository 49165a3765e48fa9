"""Publishes in this process: a test that is not about the publishing process need not wait for its imports."""

from collections.abc import Callable
from typing import Any

from ttt_mlflow.tracking.background import ACTIONS, Worker
from ttt_mlflow.tracking.publisher import Limits, Progress


class InlinePublisher:
    """As :class:`ttt_mlflow.tracking.publisher.Publisher`, without a process and without limits."""

    def __init__(self, limits: Limits) -> None:
        self._worker = Worker.__new__(Worker)

    def send(self, do: str, awaited: bool = False, **asked: Any) -> int:
        ACTIONS[do](self._worker, asked)
        return 0

    def ask(self, do: str, limits: Limits, show: Callable[[Progress], None] | None = None, **asked: Any) -> Any:
        return ACTIONS[do](self._worker, asked)

    def close(self) -> None:
        pass

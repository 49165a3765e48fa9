"""Which cell of a sweep is measured next: as many side by side as there are places, some of them alone on the host."""

from collections import deque
from collections.abc import Sequence

from ttt_mlflow.app.sweep.board import CellState


class Schedule:
    """The cells that wait, in the order in which they are measured.

    Those that are to be alone (:attr:`CellState.alone`) come last, one at a time. taken: how many are measured now.
    """

    def __init__(self, order: Sequence[CellState]) -> None:
        self._waiting = deque(one for one in order if not one.alone)
        self._alone = deque(one for one in order if one.alone)
        self._moved: set[str] = set()
        self.taken = 0

    @property
    def is_done(self) -> bool:
        return not (self.taken or self._waiting or self._alone)

    def next(self, width: int, queues: bool) -> CellState | None:
        """The cell to start now; None if none can be. width, queues: of the executor."""
        one = None
        if self._waiting:
            if width and (self.taken < width or queues):
                one = self._waiting.popleft()
        elif self._alone and width and not self.taken:
            one = self._alone.popleft()
        self.taken += one is not None
        return one

    def ended(self) -> None:
        """A cell has ended, whatever came of it."""
        self.taken -= 1

    def once_more(self, one: CellState) -> bool:
        """Let a cell whose GPU was lost be measured on another one. Returns whether it will be: each once."""
        if one.cell.key in self._moved:
            return False
        self._moved.add(one.cell.key)
        (self._alone if one.alone else self._waiting).appendleft(one)
        return True

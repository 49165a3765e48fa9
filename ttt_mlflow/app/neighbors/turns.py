"""Measures each case alone on each GPU and on all GPUs at once, in turns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ttt_mlflow import names
from ttt_mlflow.app.neighbors.cases import Case
from ttt_mlflow.app.sweep.executors import Ended
from ttt_mlflow.app.sweep.executors.process import ProcessExecutor
from ttt_mlflow.app.sweep.task import Task
from ttt_mlflow.errors import Killed
from ttt_mlflow.record.journal import Journal

ALONE, TOGETHER = "alone", "together"
ROUNDS = 2  # the second one goes backwards, so that a drift falls on both sides alike
LOOK_S = 1.0


@dataclass(frozen=True)
class One:
    """A run that was measured. place: its GPU. record: None if it left none."""

    case: str
    side: str
    round_number: int
    place: str
    record: Journal | None
    reason: str | None = None

    @property
    def is_complete(self) -> bool:
        return self.record is not None and self.record.status["status"] == "ok"


@dataclass(frozen=True)
class Turn:
    """What is measured at one time: one case on one GPU, or on all."""

    case: Case
    side: str
    round_number: int
    places: tuple[str, ...]

    @property
    def text(self) -> str:
        where = f"alone on GPU {self.places[0]}" if self.side == ALONE else f"on all {len(self.places)} GPUs at once"
        return f"{self.case.name}, round {self.round_number} of {ROUNDS}: {self.case.config.run_name} {where}"


@dataclass
class Turns:
    """All turns, and what was measured so far. ``runs`` is filled in place: an interruption loses nothing."""

    cases: Sequence[Case]
    places: Sequence[str]
    runs: list[One] = field(default_factory=list)

    def all(self) -> list[Turn]:
        return [turn for number in range(1, ROUNDS + 1) for turn in self._round(number)]

    def _round(self, number: int) -> Iterator[Turn]:
        for case in self.cases if number % 2 else reversed(self.cases):
            alone = [Turn(case, ALONE, number, (place,)) for place in self.places]
            together = Turn(case, TOGETHER, number, tuple(self.places))
            yield from [*alone, together] if number % 2 else [together, *reversed(alone)]

    def measure(
        self, executor: ProcessExecutor, task: Callable[[Case], Task], show: Callable[[Turn], None] = lambda turn: None
    ) -> Iterator[tuple[Turn, list[One]]]:
        """Measure turn after turn, and yield what each has measured. show: called before each.

        Killed is passed on, after what was being measured has recorded what it has.
        """
        for turn in self.all():
            show(turn)
            for place in turn.places:
                executor.start(task(turn.case), on=place)
            yield turn, self._wait(executor, turn)

    def _wait(self, executor: ProcessExecutor, turn: Turn) -> list[One]:
        found: list[One] = []

        def note(ended: Sequence[Ended]) -> None:
            for one in ended:
                if one.record:
                    one.record.update_tags({names.TAG_SIDE: turn.side})
                reason = one.reason or one.lost
                found.append(One(turn.case.name, turn.side, turn.round_number, one.place, one.record, reason))
                self.runs.append(found[-1])

        try:
            while executor.running():
                note(executor.wait(LOOK_S))
        except Killed as killed:
            note(executor.stop(killed.signum))
            raise
        return found

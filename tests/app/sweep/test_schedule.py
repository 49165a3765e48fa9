"""Which cell comes next: side by side, alone on the host, and once more where a GPU was lost."""

from tests.app.sweep.test_board import board
from ttt_mlflow.app.sweep.board import CellState
from ttt_mlflow.app.sweep.schedule import Schedule


def cells(alone: int = 0) -> list[CellState]:
    """Six cells, of which the last ``alone`` are to be alone."""
    states = board(batch="1,2,3").states
    for one in states[len(states) - alone :]:
        one.alone = "3 tokens in a step"
    return states


def taken(schedule: Schedule, width: int, queues: bool = False) -> list[CellState]:
    found = []
    while one := schedule.next(width, queues):
        found.append(one)
    return found


def test_as_many_side_by_side_as_there_are_places() -> None:
    states = cells()
    schedule = Schedule(states)
    assert taken(schedule, 4) == states[:4]
    schedule.ended()
    assert taken(schedule, 4) == states[4:5]
    for _ in range(4):
        schedule.ended()
    assert not schedule.is_done
    assert taken(schedule, 4) == states[5:]
    schedule.ended()
    assert schedule.is_done
    assert taken(Schedule(states), 1, queues=True) == states, "an executor that orders them by itself gets all"


def test_those_that_are_to_be_alone_come_last_and_one_at_a_time() -> None:
    states = cells(alone=2)
    schedule = Schedule([states[5], *states[:5]])
    assert taken(schedule, 8) == states[:4]
    for left in (3, 2, 1):
        schedule.ended()
        assert taken(schedule, 8) == [], f"{left} are still measured"
    schedule.ended()
    assert taken(schedule, 8) == [states[5]]
    schedule.ended()
    assert taken(schedule, 8) == [states[4]]


def test_a_cell_whose_gpu_was_lost_is_next_and_only_once() -> None:
    states = cells()
    schedule = Schedule(states)
    first, _ = taken(schedule, 2)
    schedule.ended()
    assert schedule.once_more(first)
    assert taken(schedule, 1) == [], "one place is left, and it is taken"
    schedule.ended()
    assert taken(schedule, 1) == [first]
    schedule.ended()
    assert not schedule.once_more(first)
    assert taken(schedule, 1) == [states[2]]


def test_without_a_place_nothing_is_next() -> None:
    schedule = Schedule(cells(alone=6))
    assert taken(schedule, 0) == []
    assert not schedule.is_done

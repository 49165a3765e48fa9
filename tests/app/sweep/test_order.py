"""In which order cells are measured, by how many are measured at once. In turns: test_grid.py."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.app.sweep.test_board import board
from ttt_mlflow.app.sweep.board import Board
from ttt_mlflow.app.sweep.command import in_order


def expecting(found: Board, seconds: dict[int, float | None]) -> Board:
    for one in found.states:
        predicted = replace(one.checked.prediction, seconds=seconds[one.cell.config.batch])
        one.checked = replace(one.checked, prediction=predicted)
    return found


def batches(found: Board, width: int) -> list[int]:
    return [one.cell.config.batch for one in in_order(found, width)]


def test_on_several_gpus_the_longest_come_first() -> None:
    """On eight GPUs, a sweep whose last cells took 24 and 14 s would have taken 41 s instead of 30."""
    found = expecting(board(batch="1,2,3"), {1: 20.0, 2: 30.0, 3: 25.0})
    assert batches(found, 1) == [1, 1, 2, 2, 3, 3]
    assert batches(found, 2) == [2, 2, 3, 3, 1, 1]


def test_without_a_difference_the_last_batch_comes_first() -> None:
    found = expecting(board(batch="1,2,3"), dict.fromkeys((1, 2, 3), None))
    assert batches(found, 8) == [3, 3, 2, 2, 1, 1]
    names = [one.cell.config.inner_net for one in in_order(found, 8)]
    assert names == [one.cell.config.inner_net for one in reversed(in_order(found, 1))], "still in turns"


def test_those_that_are_alone_come_last() -> None:
    found = expecting(board(batch="1,2,3"), {1: 50.0, 2: 30.0, 3: 25.0})
    for one in found.states:
        one.alone = "launch-bound" if one.cell.config.batch == 1 else None
    assert batches(found, 4) == [2, 2, 3, 3, 1, 1]


@given(st.lists(st.floats(1, 100) | st.none(), min_size=1, max_size=6), st.integers(2, 8))
def test_what_takes_longer_never_comes_later(seconds: list[float | None], width: int) -> None:
    numbers = dict(enumerate(seconds, 1))
    found = expecting(board(batch=",".join(map(str, numbers))), numbers)
    order = [numbers[batch] or 0.0 for batch in batches(found, width)]
    assert order == sorted(order, reverse=True)
    assert len(order) == len(found.states)

"""A GPU that is slower than its siblings is named, and no other."""

import pytest

from ttt_mlflow.measurement.slower_gpus import SlowerGpu, slower_gpus

EIGHT = {str(number): [100.0 + number / 10, 100.0 - number / 10] for number in range(8)}


def test_one_of_eight() -> None:
    (found,) = slower_gpus({**EIGHT, "3": [98.2, 98.2]})
    assert str(found) == "GPU 3 is 1.8 % slower than the median of eight"
    assert slower_gpus(EIGHT) == []


def test_the_slowest_comes_first() -> None:
    found = slower_gpus({**EIGHT, "3": [98.0], "5": [90.0]})
    assert [one.gpu for one in found] == ["5", "3"]


def test_one_slow_run_is_no_slow_gpu() -> None:
    assert slower_gpus({**EIGHT, "3": [90.0, 100.1]}) == []
    assert [one.gpu for one in slower_gpus({**EIGHT, "3": [90.0, 97.0]})] == ["3"]


@pytest.mark.parametrize("runs", [{}, {"0": [1.0]}, {"0": [1.0], "1": []}])
def test_nothing_to_compare_with(runs: dict[str, list[float]]) -> None:
    assert slower_gpus(runs) == []


def test_of_two_the_other_is_the_measure() -> None:
    assert str(slower_gpus({"0": [100.0], "1": [98.0]})[0]) == "GPU 1 is 2.0 % slower than the other"
    assert slower_gpus({"0": [100.0], "1": [99.1]}) == []
    assert str(SlowerGpu("a", 2, 16)) == "GPU a is 2.0 % slower than the median of 16"

"""What is read out of a trace: steps, layers and parts of what ran, and times that add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.profilers.traces import ComposedTrace, two_eager_steps, two_replays
from ttt_mlflow.profilers.trace import UNKNOWN, read_steps


def test_kernels_have_the_place_of_their_launch() -> None:
    steps = read_steps(two_eager_steps().content, on_gpu=True)
    assert steps.count == 2
    assert [(one.name, one.step, one.layer, one.part) for one in steps.activities] == [
        (name, step, layer, part)
        for step in (0, 1)
        for name, layer, part in (
            ("gemm", 0, "projections"),
            ("decode", 0, "inner net state"),
            ("Memset", None, UNKNOWN),
        )
    ]
    assert {one.lane for one in steps.activities} == {"stream 7"}
    assert [one.name for one in steps.of_step(1)] == ["gemm", "decode", "Memset"]


def test_overlapping_kernels_are_counted_once() -> None:
    steps = read_steps(two_eager_steps().content, on_gpu=True)
    assert [one.own_us for one in steps.activities] == [20, 20, 10] * 2
    assert steps.total_us == 160
    assert steps.busy_us == 100
    assert steps.gaps_us == [0, 10, 40, 0, 10]
    assert steps.host_us == [50, 50]


def test_a_kernel_within_another_adds_nothing() -> None:
    trace = ComposedTrace()
    trace.range("step 0", 0, 10)
    trace.launch(1, ("long", 100, 200))
    trace.launch(2, ("short", 120, 150), stream=9)
    steps = read_steps(trace.content, on_gpu=True)
    assert [(one.name, one.own_us, one.lane) for one in steps.activities] == [
        ("long", 100, "stream 7"),
        ("short", 0, "stream 9"),
    ]
    assert steps.busy_us == steps.total_us == 100


def test_a_graphs_kernels_have_the_step_of_its_launch_and_no_part() -> None:
    steps = read_steps(two_replays().content, on_gpu=True)
    assert [one.step for one in steps.activities] == [0, 0, 0, 1, 1, 1]
    assert {(one.layer, one.part) for one in steps.activities} == {(None, UNKNOWN)}


def test_what_ran_outside_the_steps_is_left_out() -> None:
    trace = two_replays()
    trace.launch(500, ("elsewhere", 3000, 4000))
    trace.events.append(
        {"ph": "X", "cat": "kernel", "name": "unlaunched", "tid": 7, "ts": 0, "dur": 1, "args": {"stream": 7}}
    )
    assert len(read_steps(trace.content, on_gpu=True).activities) == 6


def test_a_launch_of_a_thread_without_ranges_belongs_to_what_the_steps_thread_was_doing() -> None:
    trace = two_eager_steps()
    trace.launch(20, ("another thread's", 1070, 1080), thread=2)
    trace.launch(70, ("between the steps", 1090, 1095), thread=2)
    steps = read_steps(trace.content, on_gpu=True)
    (found,) = (one for one in steps.activities if one.name == "another thread's")
    assert (found.step, found.layer, found.part) == (0, 0, "inner net state")
    assert len(steps.activities) == 7


def test_operators_without_the_time_of_those_that_they_call() -> None:
    trace = ComposedTrace()
    trace.range("step 0", 0, 100)
    trace.range("projections", 10, 60)
    trace.operator("aten::linear", 10, 50)
    trace.operator("aten::mm", 20, 40)
    trace.operator("aten::add", 40, 45)
    trace.operator("aten::argmax", 70, 80)
    trace.operator("aten::ones", 200, 210)
    steps = read_steps(trace.content, on_gpu=False)
    assert [(one.name, one.own_us, one.part) for one in steps.activities] == [
        ("aten::linear", 15, "projections"),
        ("aten::mm", 20, "projections"),
        ("aten::add", 5, "projections"),
        ("aten::argmax", 10, UNKNOWN),
    ]
    assert steps.total_us == 100
    assert steps.busy_us == 50


def test_a_compiled_graphs_name_is_that_of_every_run() -> None:
    trace = ComposedTrace()
    trace.range("step 0", 0, 100)
    trace.operator("## Call CompiledFxGraph fabc123 ##", 1, 2)
    assert [one.name for one in read_steps(trace.content, on_gpu=False).activities] == ["compiled graph"]


def test_ranges_that_end_where_the_next_begins() -> None:
    trace = ComposedTrace()
    trace.range("step 0", 0, 10)
    trace.range("projections", 0, 5)
    trace.range("sampling", 5, 10)
    for at in (0, 4.9, 5, 9.9):
        trace.launch(at, (f"at {at}", 100 + at, 100.1 + at))
    parts = [one.part for one in read_steps(trace.content, on_gpu=True).activities]
    assert parts == ["projections", "projections", "sampling", "sampling"]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 100), st.sampled_from((7, 9))), min_size=1, max_size=20))
def test_busy_time_is_the_time_in_which_anything_ran(kernels: list[tuple[int, int, int]]) -> None:
    trace = ComposedTrace()
    trace.range("step 0", 0, 10)
    for begin, length, stream in kernels:
        trace.launch(1, ("kernel", begin, begin + length), stream=stream)
    steps = read_steps(trace.content, on_gpu=True)
    covered = {moment for begin, length, _ in kernels for moment in range(begin, begin + length)}
    assert steps.busy_us == pytest.approx(len(covered))
    assert steps.busy_us + sum(steps.gaps_us) == pytest.approx(steps.total_us)

"""Parts for steps that have none, from an eager step."""

from tests.profilers.traces import ComposedTrace, two_eager_steps, two_replays
from ttt_mlflow.profilers.attribution import with_parts_of
from ttt_mlflow.profilers.trace import UNKNOWN, Activity, Steps, read_steps


def eager() -> list[Activity]:
    return read_steps(two_eager_steps().content, on_gpu=True).of_step(0)


def named(*names: str) -> Steps:
    """A graph of kernels."""
    trace = ComposedTrace()
    trace.range("step 0", 0, 8)
    trace.launch(1, *((name, 10.0 * place, 10.0 * place + 5) for place, name in enumerate(names)))
    return read_steps(trace.content, on_gpu=True)


def eager_step(*kernels: tuple[str, str]) -> list[Activity]:
    trace = ComposedTrace()
    trace.range("step 0", 0, 1000)
    for place, (name, part) in enumerate(kernels):
        trace.range(part, 10 * place, 10 * place + 9)
        trace.launch(10 * place + 1, (name, 10.0 * place, 10.0 * place + 5))
    return read_steps(trace.content, on_gpu=True).activities


def parts(steps: Steps) -> list[tuple[str, str]]:
    return [(one.name, one.part) for one in steps.activities]


def test_each_replay_takes_the_eager_steps_layers_and_parts() -> None:
    steps = with_parts_of(read_steps(two_replays().content, on_gpu=True), eager())
    expected = [("gemm", 0, "projections"), ("decode", 0, "inner net state"), ("Memset", None, UNKNOWN)]
    assert [(one.name, one.layer, one.part) for one in steps.activities] == expected * 2
    assert steps.busy_us == 100, "times are the replay's"


def test_a_name_of_several_parts_is_told_by_its_place() -> None:
    step = eager_step(
        ("norm", "sampling"), ("gemm", "projections"), ("swiglu", "feed-forward"), ("gemm", "feed-forward")
    )
    found = with_parts_of(named("norm", "gemm", "swiglu", "gemm"), step)
    assert parts(found)[1] == ("gemm", "projections")
    assert parts(found)[3] == ("gemm", "feed-forward")


def test_a_kernel_of_the_compilers_stays_unknown_and_what_is_around_it_does_not() -> None:
    step = eager_step(*(("a", "sampling"), ("b", "sampling"), ("c", "projections"), ("d", "projections")) * 2)
    found = with_parts_of(named("a", "b", "c", "d", "fused", "a", "b", "c", "d"), step)
    known = ["sampling", "sampling", "projections", "projections"]
    assert [part for _, part in parts(found)] == [*known, UNKNOWN, *known]


def test_out_of_order_a_name_of_one_part_is_believed_and_one_of_several_is_not() -> None:
    step = eager_step(("gemm", "projections"), ("scan", "inner net state"), ("gemm", "feed-forward"))
    found = with_parts_of(named("scan", "fused", "gemm"), step)
    assert parts(found) == [("scan", "inner net state"), ("fused", UNKNOWN), ("gemm", UNKNOWN)]
    assert {one.layer for one in found.activities} == {None}


def test_a_prompts_replays_are_laid_beside_the_eager_prompts_last_tokens() -> None:
    """What went through the model's prefill has its names; each replay behind it must find its own token."""
    token = (("norm", "sampling"), ("gemm", "projections"), ("gemm", "feed-forward"))
    at_once = (("dual", "inner net state"), ("gemm", "embeddings and head"))
    trace = ComposedTrace()
    trace.range("step 0", 0, 1000)
    for place, (name, part) in enumerate(at_once):
        trace.range(part, 10 * place, 10 * place + 9)
        trace.launch(10 * place + 1, (name, 10.0 * place, 10.0 * place + 5))
    for replay in (1, 2):
        begin = 100 * replay
        trace.launch(begin, *((name, begin + 10.0 * i, begin + 10.0 * i + 5) for i, (name, _) in enumerate(token)))
    steps = read_steps(trace.content, on_gpu=True)
    assert [part for _, part in parts(steps)] == ["inner net state", "embeddings and head", *[UNKNOWN] * 6]
    found = with_parts_of(steps, eager_step(*at_once, *token, *token))
    assert parts(found) == [*at_once, *token, *token]


def test_parts_that_are_known_stay() -> None:
    steps = read_steps(two_eager_steps().content, on_gpu=True)
    other = eager_step(("gemm", "sampling"), ("decode", "sampling"), ("Memset", "sampling"))
    assert [part for _, part in parts(with_parts_of(steps, other))] == [
        "projections",
        "inner net state",
        "sampling",
    ] * 2

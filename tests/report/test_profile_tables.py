"""The profile's table for people."""

import pytest

from tests.profilers.traces import ComposedTrace, two_eager_steps
from ttt_mlflow.profilers.step_profile import PartRoofline, kernel_table, part_table, profile_of
from ttt_mlflow.profilers.trace import Steps, read_steps
from ttt_mlflow.report.profile_tables import kernels_markdown
from ttt_mlflow.report.text import shortened


def markdown(steps: Steps, measured_ms: float | None = None, notes: tuple[str, ...] = ()) -> str:
    parts = part_table(steps, {"projections": PartRoofline(1000, 0.01)})
    return kernels_markdown(profile_of(steps), kernel_table(steps, parts), parts, measured_ms, notes)


def test_a_gpus_table() -> None:
    text = markdown(read_steps(two_eager_steps().content, on_gpu=True), 0.051, ("A note.",))
    assert "**2 profiled steps, 0.08 ms each: kernels 0.05 ms, nothing running 0.03 ms**" in text
    assert "took 0.051 ms (mean). The kernels of a profiled step add up to 98.0 % of that." in text
    assert "\nA note.\n" in text
    assert "| projections | 2 | 0.02 | 40.0 % | 1,000 | 0.01 | 50.0 % |" in text
    assert "| inner net state | 2 | 0.02 | 40.0 % |  |  |  |" in text
    assert "| gemm | projections | 2 | 0.02 | 20 | 40.0 % |" in text
    assert "The part of 20.0 % of the time is not known." in text


HOST = "it slows the host, which then launches kernels more slowly than the GPU runs them"


@pytest.mark.parametrize(
    ("measured_ms", "said"),
    [
        (0.08, "62.5 % of that."),
        (0.077, "64.9 % of that."),
        (0.064, f"78.1 % of that. The profiler made the step 25 % longer: {HOST}. "
                "In the measured step, nothing ran for about 0.014 ms."),
        (0.04, f"125.0 % of that. The profiler made the step 100 % longer: {HOST}. "
               "In the measured step, nothing ran for about 0 ms."),
    ],
)  # fmt: skip
def test_a_step_that_the_profiler_slowed(measured_ms: float, said: str) -> None:
    assert f" add up to {said}\n" in markdown(read_steps(two_eager_steps().content, on_gpu=True), measured_ms)


def test_a_cpus_table_speaks_of_operators() -> None:
    trace = ComposedTrace()
    trace.range("step 0", 0, 100)
    trace.range("sampling", 0, 100)
    trace.operator("aten::argmax", 10, 90)
    text = markdown(read_steps(trace.content, on_gpu=False))
    assert "operators 0.08 ms" in text
    assert "| aten::argmax | sampling |" in text
    assert "kernel" not in text
    assert "measured" not in text
    assert "not known" not in text
    slowed = markdown(read_steps(trace.content, on_gpu=False), 0.05)
    assert (
        "operators of a profiled step add up to 160.0 % of that. The profiler made the step 100 % longer.\n" in slowed
    )


@pytest.mark.parametrize(("name", "shown"), [("a" * 100, "a" * 100), ("b" * 101, "b" * 99 + "…")])
def test_a_long_name_is_cut(name: str, shown: str) -> None:
    assert shortened(name) == shown

"""The profile's pictures: drawn without a display, and also of little."""

from pathlib import Path

import pytest

from tests.profilers.traces import ComposedTrace, two_eager_steps
from ttt_mlflow.profilers.step_profile import kernel_table, part_table
from ttt_mlflow.profilers.trace import UNKNOWN, Steps, read_steps
from ttt_mlflow.report.profile_pictures import PART_COLORS, kernels_png, timeline_png
from ttt_mlflow.workload import PARTS


def nothing() -> Steps:
    trace = ComposedTrace()
    trace.range("step 0", 0, 10)
    return read_steps(trace.content, on_gpu=False)


@pytest.mark.parametrize("steps", [read_steps(two_eager_steps().content, on_gpu=True), nothing()])
def test_the_pictures(steps: Steps, tmp_path: Path) -> None:
    kernels = kernel_table(steps, part_table(steps, {}))
    for picture in (kernels_png(kernels, "a run"), timeline_png(steps.of_step(0), "a run")):
        assert picture.startswith(b"\x89PNG")


def test_each_part_has_a_color_of_its_own() -> None:
    assert set(PART_COLORS) == {*PARTS, UNKNOWN}
    assert len(set(PART_COLORS.values())) == len(PART_COLORS)

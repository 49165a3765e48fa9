"""PyTorch's profiler on the CPU: whole traces, with the steps named."""

import tempfile
from pathlib import Path

import pytest
import torch

from ttt_mlflow.errors import RunFailed
from ttt_mlflow.profilers.torch_profiler import record
from ttt_mlflow.profilers.trace import read_steps
from ttt_mlflow.workload import in_part, recording

CPU = torch.device("cpu")


def test_steps_and_parts_are_in_the_trace() -> None:
    weight = torch.ones(64, 64)
    calls = []

    def step() -> None:
        calls.append(recording())
        with in_part("projections"):
            weight @ weight
        weight.argmax()

    trace = record(step, 3, CPU)
    assert calls == [True] * 4, "one to set the profiler up"
    assert not recording()
    steps = read_steps(trace.content, on_gpu=False)
    assert steps.count == 3
    products = [one for one in steps.activities if one.name == "aten::mm"]
    assert [(one.step, one.part) for one in products] == [(step, "projections") for step in range(3)]
    assert {one.part for one in steps.activities if one.name == "aten::argmax"} == {"unknown"}
    assert 0 < steps.busy_us <= steps.total_us


def test_what_runs_before_is_not_recorded() -> None:
    ran: list[str] = []

    def before() -> None:
        ran.append("before")
        torch.ones(3).cumsum(0)

    def step() -> None:
        ran.append("step")
        torch.ones(3).argmax()

    trace = record(step, 2, CPU, before)
    assert ran == ["before", "step", "step"]
    names = {event["name"] for event in trace.content["traceEvents"]}
    assert "aten::argmax" in names
    assert "aten::cumsum" not in names


def test_a_step_that_fails_switches_the_names_off() -> None:
    def step() -> None:
        raise RuntimeError("in the step")

    with pytest.raises(RuntimeError, match="in the step"):
        record(step, 1, CPU)
    assert not recording()


@pytest.mark.parametrize("left", [None, b'{"traceEvents": [{"ph": "X", "na'])
def test_a_trace_that_is_not_whole_is_a_failure(left: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the profiler leaves it on a full disk, without a word."""

    def export(self: object, path: str) -> None:
        if left is not None:
            Path(path).write_bytes(left)

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", export)
    with pytest.raises(RunFailed) as failed:
        record(lambda: torch.ones(2), 1, CPU)
    assert str(failed.value) == (
        f"profile=torch: PyTorch's profiler did not write a complete trace to {tempfile.gettempdir()}; "
        "free some space there, or set TMPDIR to a folder with more space"
    )

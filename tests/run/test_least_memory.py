"""What is certain not to fit into the host's memory is told before anything is allocated, and what may fit is not."""

from pathlib import Path

import pytest

from tests.models.ttt.cases import make_model
from tests.runs import measured_in
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import OutOfMemory
from ttt_mlflow.models.decoder import tensors_in
from ttt_mlflow.run import least_memory
from ttt_mlflow.run.least_memory import least_host_bytes
from ttt_mlflow.run.plan import make_plan

TINY = {"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "genlen": 3, "warmup": 1, "repeats": 2}
LARGEST = 2**31 - 1


@pytest.mark.parametrize(
    "more",
    [
        {"batch": LARGEST},
        {"batch": LARGEST, "inner_net": "mlp_2_dual", "promptlen": 17},
        {"promptlen": LARGEST, "batch": 1000},
        {"mode": "prefill", "batch": LARGEST},
    ],
    ids=str,
)
def test_what_cannot_fit_is_a_result_in_one_line(more: dict[str, object], tmp_path: Path) -> None:
    measured = measured_in(tmp_path, {**TINY, **more})
    assert type(measured.failure) is OutOfMemory
    status = measured.journal.status
    assert (status["status"], status["exit_code"]) == ("oom", 3)
    (line,) = str(measured.failure).splitlines()
    assert line.startswith("out of memory: ttt-tiny mlp_")
    assert " does not fit; it needs at least " in line
    assert line.endswith(" GB with swap space; nothing was allocated")
    assert "setup_s" not in measured.metrics


@pytest.mark.parametrize("inner_net", ["mlp_1_dual", "mlp_2_dual"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_more_is_counted_than_a_run_has(inner_net: str, dtype: str) -> None:
    """A run whose memory is just there is not refused."""
    plan = make_plan(RunConfig.parse({**TINY, "inner_net": inner_net, "dtype": dtype, "promptlen": 5, "batch": 3}))
    model = make_model(inner_net, dtype=plan.request.dtype)
    weights = sum(weight.nbytes for weight in model.parameters())
    state = sum(tensor.nbytes for tensor in tensors_in(model.new_state(3)))
    assert least_host_bytes(plan) == weights + state + 3 * 5 * 8 + 3 * 8


def test_what_just_fits_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = least_host_bytes(make_plan(RunConfig.parse(TINY)))
    monkeypatch.setattr(least_memory, "most_memory_bytes", lambda: needed)
    assert measured_in(tmp_path / "fits", TINY).failure is None
    monkeypatch.setattr(least_memory, "most_memory_bytes", lambda: needed - 1)
    assert type(measured_in(tmp_path / "does not", TINY).failure) is OutOfMemory

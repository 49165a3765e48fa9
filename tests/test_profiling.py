"""The profiling passes of a run on the CPU: what they leave, and what they do when something stands in the way."""

import errno
import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.runs import Measured, measured_in
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.measure.roofline import PARTS
from ttt_mlflow.tracking.journal import Journal

TINY = {"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "genlen": 4, "warmup": 0, "repeats": 2}
Measure = Callable[..., Measured]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    return partial(measured_in, tmp_path / "runs")


def read(measured: Measured, name: str) -> str:
    return (measured.journal.artifacts / "profiles/torch" / name).read_text()


def step_of(measured: Measured) -> dict[str, Any]:
    return json.loads(read(measured, "step.json"))


def kernels_of(measured: Measured) -> pd.DataFrame:
    return pd.read_csv(measured.journal.artifacts / "profiles/torch/kernels.csv")


@pytest.mark.parametrize("asked", [{}, {"mode": "prefill", "promptlen": 20}], ids=["decode", "prefill"])
def test_an_eager_pass_names_every_part(asked: dict[str, object], measure: Measure) -> None:
    measured = measure({**TINY, **asked, "profile": "torch"})
    assert measured.failure is None, measured.log
    step, kernels = step_of(measured), kernels_of(measured)
    assert step["steps"] == (1 if asked else 4)
    assert kernels["ms_per_step"].sum() == pytest.approx(step["busy_ms"])
    assert step["busy_ms"] + step["idle_ms"] == pytest.approx(step["step_ms"])
    assert set(PARTS) - set(kernels["part"]) == set()
    # between the model's parts the prompt's pass has the host's own small ones: resetting the state
    unknown = kernels.loc[kernels["part"] == "unknown", "share_pct"].sum()
    assert unknown == 0 if not asked else unknown < 25
    parts = pd.read_csv(measured.journal.artifacts / "profiles/torch/parts.csv")
    floors = pd.read_csv(measured.journal.artifacts / "roofline/parts.csv")
    own = parts[parts["part"] != "unknown"]
    assert own["min_bytes"].tolist() == floors["bytes"].tolist()
    assert "trace-eager.json.gz" not in {
        path.name for path in (measured.journal.artifacts / "profiles/torch").iterdir()
    }
    assert measured.journal.run_name in read(measured, "open.html")


def test_the_trace_is_whole_and_as_the_profiler_wrote_it(measure: Measure) -> None:
    measured = measure({**TINY, "profile": "torch"})
    with gzip.open(measured.journal.artifacts / "profiles/torch/trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert [name for name in names if name.startswith("step ")] == [f"step {index}" for index in range(4)]
    assert names.count("layer 1") == 4


def test_a_compiled_pass_takes_its_parts_from_an_eager_one(measure: Measure) -> None:
    measured = measure({**TINY, "use_compile": True, "profile": "torch"})
    assert measured.failure is None, measured.log
    assert "profiles/torch/trace-eager.json.gz" in measured.artifacts
    assert "in an eager step beside it" in read(measured, "kernels.md")
    kernels = kernels_of(measured)
    assert "unknown" in set(kernels["part"]), "compiled code itself"
    (part,) = set(kernels.loc[kernels["name"] == "aten::argmax", "part"])
    assert part == "sampling"


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Writing the artifact ``name`` fails as on a full disk."""
    write = Journal.write_artifact

    def write_artifact(self: Journal, relative: str, data: bytes | str) -> Path:
        if relative == name:
            raise OSError(errno.ENOSPC, "No space left on device", relative)
        return write(self, relative, data)

    monkeypatch.setattr(Journal, "write_artifact", write_artifact)


def test_a_full_disk_costs_the_profile_alone(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, "profiles/torch/trace.json.gz")
    measured = measure({**TINY, "profile": "torch"})
    message = (
        "profile=torch: cannot be written (No space left on device); make room and profile again; "
        "the measurement before it is complete"
    )
    assert type(measured.failure) is RunFailed
    assert measured.journal.status["message"] == str(measured.failure) == message
    assert measured.metrics["decode_tokens_per_s"] > 0
    assert not any(name.startswith("profiles/") for name in measured.artifacts)
    assert "No space left on device" in measured.log

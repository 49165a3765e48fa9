import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from ttt_mlflow.errors import RunFailed
from ttt_mlflow.profilers.torch_profiler import profile_steps

CPU = torch.device("cpu")


def test_trace_and_table_of_a_cpu_pass(tmp_path: Path) -> None:
    weight = torch.ones(64, 64)
    out = tmp_path / "profiles" / "torch"
    profile_steps(lambda: weight @ weight, 3, out, CPU)
    assert sorted(path.name for path in out.iterdir()) == ["kernels.csv", "trace.json.gz"]

    with gzip.open(out / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = [event.get("name") for event in events if event.get("ph") == "X"]
    assert names.count("aten::mm") == 3
    assert [name for name in names if name.startswith("step ")] == ["step 0", "step 1", "step 2"]

    table = pd.read_csv(out / "kernels.csv")
    assert table.columns.tolist() == ["name", "calls", "total_ms", "mean_us", "share_pct"]
    product = table.set_index("name").loc["aten::mm"]
    assert product["calls"] == 3
    assert product["mean_us"] * 3 == pytest.approx(product["total_ms"] * 1e3)
    assert table["share_pct"].sum() == pytest.approx(100)
    assert table["total_ms"].is_monotonic_decreasing
    assert not table["name"].str.startswith("step ").any()


def test_a_pass_may_be_profiled_again(tmp_path: Path) -> None:
    for steps in (1, 2):
        profile_steps(lambda: torch.ones(2) + 1, steps, tmp_path, CPU)
    table = pd.read_csv(tmp_path / "kernels.csv").set_index("name")
    assert table.loc["aten::add", "calls"] == 2


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_gpu_pass_without_kernels_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another profiler holds the GPU: only the host's side is seen."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with pytest.raises(RunFailed, match="no GPU kernel"):
        profile_steps(lambda: torch.ones(2) + 1, 1, tmp_path, torch.device("cuda", 0))
    assert (tmp_path / "trace.json.gz").exists()


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def step() -> None:
        raise RuntimeError("in the step")

    with pytest.raises(RuntimeError, match="in the step"):
        profile_steps(step, 1, tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()

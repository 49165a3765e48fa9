"""Whole runs on a GPU: what is recorded beyond a CPU's, memory that returns, and a configuration that does not fit."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.catalog import ARTIFACT_PATHS, METRIC_NAMES
from tests.runs import Carried, measured_in
from ttt_mlflow import names
from ttt_mlflow.errors import OutOfMemory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
MB = 1_000_000
TINY = {"model_name": "ttt-tiny", "batch": 4, "genlen": 8, "warmup": 1, "repeats": 2, "use_compile": False}
PROFILE = {**TINY, "model_name": "ttt-profile", "batch": 16, "promptlen": 17, "genlen": 64}
# what NVML says about any measured section that is long enough to be sampled
TELEMETRY = {
    *("sm_clock_mhz_mean", "sm_clock_mhz_min", "sm_clock_mhz_max", "memory_clock_mhz_mean"),
    *("power_w_mean", "temperature_c_max", "gpu_utilization_pct_mean", "device_memory_used_gb"),
}


@pytest.fixture
def allocated_before(tmp_path: Path) -> int:
    """Bytes that PyTorch's tensors hold after a small run: what libraries keep for the process is there then."""
    ok(measured_in(tmp_path / "before", TINY))
    return torch.cuda.memory_allocated()


def ok(measured: Carried) -> Carried:
    assert measured.failure is None, measured.log
    assert measured.journal.status["status"] == "ok"
    return measured


def test_a_run_records_what_the_gpu_did(tmp_path: Path) -> None:
    """With the defaults of a GPU: compiled, and replayed as a graph."""
    asked = {**PROFILE, "use_compile": None, "repeats": 40, "profile": "torch"}
    measured = ok(measured_in(tmp_path, asked))
    journal, metrics = measured.journal, measured.metrics
    params = journal.params
    assert (params["device"], params["dtype"], params["inner_net"]) == ("cuda", "float16", "mlp_1_dual_triton")
    assert (params["use_compile"], params["cuda_graph"]) == ("true", "true")

    assert {name for name in metrics if not name.startswith("part_us/")} <= METRIC_NAMES
    assert set(metrics) >= TELEMETRY
    assert metrics["sm_clock_mhz_min"] <= metrics["sm_clock_mhz_mean"] <= metrics["sm_clock_mhz_max"]
    assert metrics["power_w_mean"] > 0
    weights = 2 * metrics["model_parameters"] / 1e9
    assert weights < metrics["peak_memory_allocated_gb"] <= metrics["peak_memory_reserved_gb"]
    assert metrics["peak_memory_allocated_gb"] < metrics["device_memory_used_gb"]
    assert metrics["decode_tokens_per_s"] > 0
    assert len(measured.steps) == 40 * 64

    assert measured.artifacts <= ARTIFACT_PATHS
    folder = journal.artifacts
    assert (folder / "telemetry/clocks.png").read_bytes().startswith(b"\x89PNG")
    samples = pd.read_csv(folder / "telemetry/samples.csv")
    assert samples["measured"].any()
    expected = {metric.of(0).name for metric in names.SYSTEM_METRICS}
    # not every card has GPM
    assert (
        expected - {names.SYSTEM_DRAM_BANDWIDTH.of(0).name} <= set(journal.series) - {"pass_tokens_per_s"} <= expected
    )
    assert {"telemetry/samples.csv", "telemetry/queries.csv"} <= measured.artifacts
    assert journal.tags["ttt.gpu_name"] == torch.cuda.get_device_name()
    assert {"ttt.gpu_uuid", "ttt.driver"} <= set(journal.tags)

    kernels = pd.read_csv(folder / "profiles/torch/kernels.csv")
    (calls,) = kernels.loc[kernels["name"].str.contains("linear_decode"), "calls"]
    assert calls == 16 * 4, "sixteen steps of four layers"


@pytest.mark.parametrize(
    "asked",
    [
        {"cuda_graph": False},
        {"inner_net": "mlp_2_dual_triton"},
        {"use_compile": True},
        {"mode": "prefill", "promptlen": 40},
    ],
    ids=["eager", "graph", "compiled graph", "prefill"],
)
def test_memory_returns_after_a_run(asked: dict[str, object], tmp_path: Path, allocated_before: int) -> None:
    measured = ok(measured_in(tmp_path, {**PROFILE, **asked}))
    assert measured.metrics["peak_memory_allocated_gb"] > 0.5
    assert abs(torch.cuda.memory_allocated() - allocated_before) < MB


def test_out_of_memory_is_a_result_and_leaves_the_gpu_usable(tmp_path: Path, allocated_before: int) -> None:
    measured = measured_in(tmp_path, {**PROFILE, "batch": 2_000_000, "promptlen": 1})
    assert type(measured.failure) is OutOfMemory
    status = measured.journal.status
    assert (status["status"], status["exit_code"]) == ("oom", 3)
    subject = "out of memory: ttt-profile mlp_1_triton b2000000 g64 no compile does not fit; "
    assert status["message"].startswith(subject)
    assert "more was requested; the device has " in status["message"]
    assert measured.journal.tags["ttt.status"] == "oom"
    assert measured.metrics["peak_memory_allocated_gb"] > 0.5
    assert "decode_tokens_per_s" not in measured.metrics
    assert abs(torch.cuda.memory_allocated() - allocated_before) < MB

    later = ok(measured_in(tmp_path, PROFILE))
    assert later.metrics["decode_tokens_per_s"] > 0
    assert abs(torch.cuda.memory_allocated() - allocated_before) < MB


def test_without_nvml_the_run_says_what_it_does_not_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    measured = ok(measured_in(tmp_path, TINY))
    assert not TELEMETRY & set(measured.metrics)
    assert measured.metrics["peak_memory_allocated_gb"] > 0
    assert not any(path.startswith("telemetry/") for path in measured.artifacts)
    for text in (" ".join(measured.output.split()), measured.log):
        assert "are not recorded: nvidia-ml-py is not installed; pip install nvidia-ml-py" in text

"""What is predicted of a GPU's memory is what a run takes."""

import gc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from tests.runs import measured_in
from ttt_mlflow.config import RunConfig
from ttt_mlflow.models.mamba.model import missing
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prediction import Prediction, largest_batch, predict

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
SHORT = {"genlen": 4, "warmup": 0, "repeats": 2, "use_compile": False}
LIMIT = 0.05


@pytest.fixture(autouse=True)
def _an_empty_allocator() -> None:
    """As in a new process: other tests leave cuBLAS's workspaces."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def metrics_of(folder: Path, asked: dict[str, object]) -> dict[str, float]:
    run = measured_in(folder, asked)
    assert run.failure is None, run.log
    return run.metrics


def check(metrics: dict[str, float], predicted: Prediction) -> None:
    peaks = {
        "peak_memory_allocated_gb": predicted.allocated_bytes,
        "peak_memory_reserved_gb": predicted.reserved_bytes,
    }
    expected = {name: pytest.approx(size / 1e9, rel=LIMIT) for name, size in peaks.items() if size}
    assert len(expected) == len(peaks)
    assert {name: metrics[name] for name in peaks} == expected


@pytest.mark.parametrize(
    "asked",
    [
        {"batch": 512},
        {"batch": 64, "cuda_graph": False, "inner_net": "mlp_2_dual_triton"},
        {"batch": 64, "promptlen": 512},
        {"batch": 512, "use_compile": None, "model_name": "ttt-profile"},
        {"batch": 64, "inner_net": "mlp_2_dual", "cuda_graph": False, "model_name": "ttt-profile"},
        {"batch": 16, "promptlen": 2048, "mode": "prefill"},
        {"batch": 4, "promptlen": 32768},
    ],
    ids=["graph", "eager", "graph and prompt", "compiled graph", "PyTorch", "prefill", "a long prompt"],
)
def test_each_peak_is_within_five_percent_of_the_prediction(asked: dict[str, object], tmp_path: Path) -> None:
    asked = {**SHORT, **asked}
    predicted = predict(make_plan(RunConfig.parse(asked)), None)
    metrics = metrics_of(tmp_path, asked)
    check(metrics, predicted)
    if used := metrics.get("device_memory_used_gb"):
        assert predicted.peak_bytes is not None
        assert used == pytest.approx(predicted.peak_bytes / 1e9, rel=2 * LIMIT), (
            "the context of a process of many tests"
        )


@pytest.mark.skipif(bool(missing()), reason="needs mamba-ssm")
@pytest.mark.parametrize("batch", [1, 256])
def test_a_process_of_its_own_autotunes_mambas_kernels(batch: int, tmp_path: Path) -> None:
    """Triton does it once a process, with a buffer that is more than the temporaries of a small batch."""
    asked = {**SHORT, "model_name": "state-spaces/mamba-1.4b", "batch": batch}
    with ProcessPoolExecutor(1, get_context("spawn")) as own:
        check(own.submit(metrics_of, tmp_path, asked).result(), predict(make_plan(RunConfig.parse(asked)), None))


def test_the_largest_batch_fits_and_is_near_the_end_of_the_memory(tmp_path: Path) -> None:
    asked = {**SHORT, "model_name": "ttt-profile", "inner_net": "mlp_2_dual_triton"}
    free, _ = torch.cuda.mem_get_info()
    batch = largest_batch(RunConfig.parse(asked), free)
    run = measured_in(tmp_path, {**asked, "batch": batch})
    assert run.failure is None, run.log
    assert run.metrics["peak_memory_reserved_gb"] * 1e9 > 0.9 * free


def test_what_is_predicted_not_to_fit_does_not(tmp_path: Path) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    asked = {**SHORT, "model_name": "ttt-profile", "inner_net": "mlp_2_dual_triton"}
    batch = int(1.05 * largest_batch(RunConfig.parse(asked), total))
    plan = make_plan(RunConfig.parse({**asked, "batch": batch}))
    assert predict(plan, total).fits is False
    assert measured_in(tmp_path, {**asked, "batch": batch}).journal.status["status"] == "oom"

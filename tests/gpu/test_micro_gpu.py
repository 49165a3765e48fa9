"""The micro-benchmark on a GPU: what it records there, kernels that cannot be measured, memory that returns."""

import gc
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from tests.catalog import ARTIFACT_PATHS
from tests.micro.cases import entry, linear
from tests.micro.test_check import too_large
from tests.micro.test_micro_run import CarriedMicro, measured_in
from ttt_mlflow import names
from ttt_mlflow.errors import BadInput, OutOfMemory, RunFailed
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode
from ttt_mlflow.micro.entry import KernelEntry
from ttt_mlflow.micro.layer_entries import LAYER
from ttt_mlflow.micro.registry import DEFAULT_GPU
from ttt_mlflow.micro.trial import try_kernel
from ttt_mlflow.plugins import Trial
from ttt_mlflow.profilers.nsys import find_nsys

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
MB = 1_000_000
SMALL: dict[str, Any] = {"device": "cuda", "heads": 8, "head_dim": 64, "batches": "1,256", "seconds": 0.3}


def measured(tmp_path: Path, *entries: KernelEntry, **asked: Any) -> CarriedMicro:
    return measured_in(tmp_path, *entries, **{**SMALL, **asked})


def share(run: CarriedMicro, kernel: str, batch: int) -> float:
    """Of the card's read bandwidth, in percent."""
    rows = run.journal.series[names.KERNEL_READ_CEILING_PCT.of(kernel).name]
    return next(value for _, step, value in rows if step == batch)


def test_the_default_kernels(tmp_path: Path) -> None:
    run = measured(tmp_path, kernels="auto", heads=32, batches="4,256")
    assert run.failure is None, run.log
    metrics, series = run.journal.metrics, run.journal.series
    assert all(metrics[metric.name] > 0 for metric in names.GPU_METRICS)
    for kernel in DEFAULT_GPU:
        assert metrics[f"kernel_error/{kernel}"] < 1e-3
        assert metrics[f"kernel_first_use_s/{kernel}"] > 0
        for metric in names.KERNEL_METRICS:
            if metric not in (names.KERNEL_ERROR, names.KERNEL_FIRST_USE_S):
                assert [step for _, step, _ in series[metric.of(kernel).name]] == [4, 256], metric.name
        # faster than memory can be: then the cache served it
        assert 0 < share(run, kernel, 256) < 105
    for cell in run.results.cells:
        assert cell.copies is not None
        assert cell.copies >= 2
        assert cell.overlap == (cell.kernel in ("mlp_1_dual_triton", "mlp_2_dual_triton"))
        assert 0 < (run.results.roofline_pct(cell) or 0) < 105
        assert cell.promptlen == (2048 if "prefill" in cell.kernel else None)
    assert {"telemetry/samples.csv", "telemetry/clocks.png", "micro/kernels.html"} <= run.artifacts
    assert run.artifacts <= ARTIFACT_PATHS
    samples = pd.read_csv(run.journal.artifacts / "telemetry/samples.csv")
    assert samples["measured"].any()
    assert names.SYSTEM_POWER.of(0).name in series


def test_the_other_kernels_of_a_step(tmp_path: Path) -> None:
    """With the widths of ttt-1b."""
    run = measured(tmp_path, kernels="layer", heads=32, batches="1,16,128")
    assert run.failure is None, run.log
    for kernel in LAYER:
        batches = [1, 16, 128] if kernel.takes(128) else [1, 16]
        assert run.journal.metrics[f"kernel_error/{kernel.name}"] < 1e-3
        for metric in (names.KERNEL_US, names.KERNEL_GB_PER_S, names.KERNEL_READ_CEILING_PCT):
            assert run.batches(metric.name, kernel.name) == batches
        # faster than memory can be: then the cache served it
        assert all(0 < share(run, kernel.name, batch) < 105 for batch in batches), kernel.name
        is_product = run.batches(names.KERNEL_MATRIX_CEILING_PCT.name, kernel.name) == batches
        assert is_product == kernel.name.endswith(("_cublas", "_stream"))
    for cell in run.results.cells:
        assert cell.overlap == cell.kernel.endswith(("_stream", "_overlap"))
        assert (run.results.l2_sizes(cell) or 0) >= 4
    assert "times the L2" not in run.journal.description


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_other_kernels_in_other_dtypes(tmp_path: Path, dtype: str) -> None:
    """With other widths, of which none is a power of two."""
    kernels = [kernel.name for kernel in LAYER if not kernel.dtypes or dtype in kernel.dtypes]
    widths: dict[str, Any] = {"heads": 12, "intermediate": 2056, "vocab": 999}
    run = measured(tmp_path, kernels=",".join(kernels), dtype=dtype, batches="1,9", seconds=0.1, **widths)
    assert run.failure is None, run.log
    assert all(cell.us for cell in run.results.cells)


def test_a_layers_kernels_as_another_package_would_try_them() -> None:
    said: list[str] = []
    for kernel in LAYER:
        trial = Trial(said.append)
        try_kernel(kernel, torch.device("cuda"), trial)
        assert trial.failures == 0, said


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_pytorchs_kernels_eager_and_compiled(tmp_path: Path, dtype: str) -> None:
    run = measured(tmp_path, kernels="mlp_1_dual,mlp_2_dual_compiled", dtype=dtype, batches="64")
    assert run.failure is None, run.log
    assert all(cell.us for cell in run.results.cells)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_prompts_of_any_length(tmp_path: Path, dtype: str) -> None:
    """PyTorch's kernels read the position back, which a captured step must not do."""
    kernels = "mlp_1_prefill_triton,mlp_1_prefill,mlp_2_prefill_triton,mlp_2_prefill"
    run = measured(tmp_path, kernels=kernels, dtype=dtype, prompt_batches="1,8", batches="auto", promptlen=100)
    assert run.failure is None, run.log
    assert all(cell.us and cell.launches and cell.promptlen == 100 for cell in run.results.cells)


def test_a_step_that_cannot_be_captured_is_named_and_the_others_are_timed(tmp_path: Path) -> None:
    def reads_back(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
        assert int(arguments[5]) < 16
        return out

    last = entry("last", lambda: linear_decode)
    run = measured(tmp_path, entry("reads_back", lambda: linear(reads_back)), last)
    assert type(run.failure) is RunFailed
    assert "reads_back batch 1: the step cannot be captured in a CUDA graph" in str(run.failure)
    assert "; last" not in str(run.failure)
    assert run.batches("kernel_us", "reads_back") == []
    assert run.batches("kernel_us", "last") == [1, 256]
    # a capture that failed must not keep PyTorch from giving cached memory back
    torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    held = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= held - (1 << 30)


def test_a_wrong_kernel_is_not_timed(tmp_path: Path) -> None:
    run = measured(tmp_path, entry("wrong", lambda: linear(too_large)))
    assert "wrong: not timed: wrong result" in str(run.failure)
    assert run.batches("kernel_us", "wrong") == []


def test_a_batch_that_does_not_fit_costs_no_other(tmp_path: Path) -> None:
    run = measured(tmp_path, kernels="mlp_2_dual_triton,mlp_1_dual_triton", batches="64,4000000")
    assert type(run.failure) is OutOfMemory
    assert "mlp_2_dual_triton batch 4000000: out of memory: " in str(run.failure)
    assert "the device has " in str(run.failure)
    assert run.batches("kernel_us", "mlp_2_dual_triton") == run.batches("kernel_us", "mlp_1_dual_triton") == [64]
    assert run.journal.status["status"] == "oom"


def test_memory_returns_after_a_run(tmp_path: Path) -> None:
    measured(tmp_path / "first", kernels="mlp_1_dual_triton,mlp_1_dual", batches="64")
    gc.collect()
    before = torch.cuda.memory_allocated()
    measured(tmp_path / "second", kernels="mlp_1_dual_triton,mlp_1_dual", batches="512")
    gc.collect()
    assert abs(torch.cuda.memory_allocated() - before) < MB


def test_the_stream_reads_every_value() -> None:
    from ttt_mlflow.kernels.stream import block_sums

    values = torch.randint(-(2**12), 2**12, (8192 * 1000,), dtype=torch.int32, device="cuda")
    sums = torch.empty(1000, dtype=torch.int32, device="cuda")
    block_sums(values, sums, 8192, 8)
    assert torch.equal(sums, values.view(1000, 8192).sum(1).int())


def test_nsys_if_it_is_there(tmp_path: Path) -> None:
    try:
        find_nsys()
    except BadInput as missing:
        pytest.skip(str(missing))
    run = measured(tmp_path, kernels="mlp_1_dual_triton,mlp_2_dual_triton", batches="64", profile="nsys")
    folder = run.journal.artifacts / "profiles/nsys"
    print((folder / "nsys.log").read_text())
    assert run.batches("kernel_us", "mlp_2_dual_triton") == [64]
    if run.failure:  # a host without the importer's libraries
        assert "the recording is kept as report.qdstrm" in str(run.failure)
        assert (folder / "report.qdstrm").stat().st_size > 0
        return
    assert (folder / "report.nsys-rep").stat().st_size > 0
    kernels = pd.read_csv(folder / "cuda_gpu_kern_sum.csv")
    for kernel in ("linear_decode", "mlp_decode"):
        (launches,) = kernels.loc[kernels["Name"].str.contains(kernel), "Instances"]
        assert launches == 16, "a mini-batch"
    assert len(kernels) == 2, "nothing but what is asked for"

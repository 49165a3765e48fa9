"""Two short runs that record everything that a run of their kind can record on a GPU, measured on the CPU."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.runs import Carried, carried_out
from tests.telemetry.fake_nvml import GPU_UUID, FakeNvml
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.micro.plan import make_plan as make_micro_plan
from ttt_mlflow.run import lifecycle, model_run
from ttt_mlflow.run.gpu_ceilings import FoundCeilings
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.telemetry.sampler import NvmlSampler

CEILINGS = GpuCeilings(read_gb_per_s=4480.0, copy_gb_per_s=4270.0, matmul_tflops=700.0)
MODEL = {"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "genlen": 5, "warmup": 1, "repeats": 2}
KERNELS = {"kernels": "mlp_1_dual,mlp_2_dual", "batches": "1,3", "heads": 2, "head_dim": 16, "seconds": 0.01}
# artifacts that no full disk may cost
MEASURED = {"verdict.json", "timing/passes.json", "timing/steps.csv", "micro/samples.json", "environment/host.json"}


def model(logdir: Path) -> Carried:
    with pytest.MonkeyPatch.context() as patch:
        with_samples(patch)
        patch.setattr(model_run, "find_ceilings", lambda *arguments: FoundCeilings(CEILINGS))
        return carried_out(make_plan(RunConfig.parse(MODEL)), logdir, _console())


def kernels(logdir: Path) -> Carried:
    with pytest.MonkeyPatch.context() as patch:
        with_samples(patch)
        return carried_out(make_micro_plan(MicroConfig.parse({**KERNELS, "device": "cpu"})), logdir, _console())


def with_samples(patch: pytest.MonkeyPatch) -> None:
    """Sample a GPU that is not there."""
    patch.setitem(sys.modules, "pynvml", FakeNvml())
    patch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID, hz=500))


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)

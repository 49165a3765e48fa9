"""Which runs count as launch-bound: by their roofline time for each stage, else by their tokens."""

from dataclasses import replace

import pytest
import torch

from ttt_mlflow.config import RunConfig
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.run import launch_bound as module
from ttt_mlflow.run.launch_bound import launch_bound
from ttt_mlflow.run.plan import Plan
from ttt_mlflow.workload import Workload

H200 = GpuCeilings(read_gb_per_s=4480.0, copy_gb_per_s=4270.0, matmul_tflops=658.0)


def plan(batch: int, inner_net: str | None = "mlp_1_dual_triton", device: str = "cuda", **values: object) -> Plan:
    """A plan as on a machine with a GPU."""
    used = RunConfig.parse({"model_name": "ttt-1b", "batch": batch, "inner_net": inner_net, **values})
    dtype = torch.float16
    request = ModelRequest(used.model_name, used.inner_net, dtype, torch.device(device), 0, None)
    workload = Workload(used.mode, used.batch, used.promptlen, used.genlen)
    return Plan(used, used, workload, find_model(used.model_name), request, [], None)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "known_ceilings", lambda device: H200)


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> GpuCeilings:
        raise CeilingsUnknown("not known")

    monkeypatch.setattr(module, "known_ceilings", refuse)


@pytest.mark.parametrize(
    ("batch", "inner_net", "model_name", "bound"),
    [
        (1, "mlp_1_dual_triton", "ttt-1b", True),
        (16, "mlp_1_dual_triton", "ttt-1b", True),
        (128, "mlp_1_dual_triton", "ttt-1b", False),
        (1024, "mlp_1_dual_triton", "ttt-1b", False),
        (1, "mlp_2_dual_triton", "ttt-1b", True),
        (512, "mlp_2_dual_triton", "ttt-1b", False),
        (128, "mlp_1_dual_triton", "ttt-125m", True),
        (1024, "mlp_1_dual_triton", "ttt-125m", False),
    ],
)
def test_on_an_h200(known: None, batch: int, inner_net: str, model_name: str, bound: bool) -> None:
    assert (launch_bound(plan(batch, inner_net, model_name=model_name)) is not None) == bound


def test_it_says_why(known: None) -> None:
    assert launch_bound(plan(1)) == "3.5 µs of work in a stage, under 5"


def test_a_long_prompt_is_not(known: None) -> None:
    assert launch_bound(plan(1, mode="prefill", promptlen=2048)) is None


def test_by_tokens_where_the_ceilings_are_not_known(unknown: None) -> None:
    assert launch_bound(plan(1)) == "1 token in a step, at most 16"
    assert launch_bound(plan(16)) == "16 tokens in a step, at most 16"
    assert launch_bound(plan(17)) is None
    assert launch_bound(plan(16, mode="prefill", promptlen=1)) is not None
    assert launch_bound(plan(1, mode="prefill", promptlen=2048)) is None


def test_by_tokens_on_a_cpu_and_for_a_model_that_does_not_count_its_work(known: None) -> None:
    assert launch_bound(plan(16, device="cpu")) is not None
    assert launch_bound(plan(128, model_name="ttt-125m", device="cpu")) is None
    one = plan(1024)
    assert launch_bound(replace(one, entry=replace(one.entry, work=None))) is None

"""profile=accuracy on a GPU: our kernels and graphs against float32, with plain PyTorch in float16 beside them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.catalog import ARTIFACT_PATHS
from tests.runs import Carried, measured_in
from ttt_mlflow.config import RunConfig
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.fla.package import missing as missing_fla
from ttt_mlflow.models.mamba.installation import missing
from ttt_mlflow.models.reference import Twins
from ttt_mlflow.run.plan import make_plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
# four layers of the 1b widths; 128 positions are eight mini-batches
PROFILE: dict[str, Any] = {"model_name": "ttt-profile", "batch": 24, "genlen": 128, "warmup": 1, "repeats": 2}
PROFILE = {**PROFILE, "profile": "accuracy"}
NETS = ("mlp_1_dual_triton", "mlp_2_dual_triton")


def compared(folder: Path, **asked: Any) -> Carried:
    measured = measured_in(folder, {**PROFILE, **asked})
    assert measured.failure is None, measured.log
    assert measured.artifacts <= ARTIFACT_PATHS
    print({name: value for name, value in measured.metrics.items() if name.startswith("accuracy_")})
    return measured


@pytest.mark.parametrize("inner_net", NETS)
def test_our_kernels_part_from_float32_about_as_often_as_plain_pytorch(inner_net: str, tmp_path: Path) -> None:
    """The interval of the ratio of few predictions is wide: that of the goal must only not exclude it."""
    found = compared(tmp_path, inner_net=inner_net).metrics
    assert (found["accuracy_sequences"], found["accuracy_positions"]) == (24, 128)
    assert 0 < found["accuracy_logits_error"] < 1.2 * found["accuracy_yardstick_logits_error"]
    assert 0 < found["accuracy_total_variation"] < 1.2 * found["accuracy_yardstick_total_variation"]
    assert 0 < found["accuracy_yardstick_differing_tokens_pct"] < 10
    assert found["accuracy_ratio_ci_low"] <= 1.1


@pytest.mark.parametrize("inner_net", NETS)
def test_a_graph_of_eager_code_decodes_what_eager_code_decodes(inner_net: str, tmp_path: Path) -> None:
    found = compared(tmp_path, inner_net=inner_net, use_compile=False, cuda_graph=True).metrics
    assert found["accuracy_eager_differing_tokens_pct"] == 0


def test_the_reference_and_the_yardstick_launch_no_kernel_of_ours() -> None:
    plan = make_plan(RunConfig.parse({**PROFILE, "inner_net": NETS[0]}))
    model: Any = plan.entry.factory(plan.request)
    for dtype in (torch.float32, torch.float16):
        twin: Any = Twins(plan.entry, plan.request).build(model, dtype)
        assert twin.dtype == dtype
        assert not twin.net.triton
        assert twin.functions.__name__.endswith("block.reference")
        assert twin.prefill_functions.__name__.endswith("block.prefill_reference")
        weights = dict(model.named_parameters())
        assert all(torch.equal(one, weights[name].to(dtype)) for name, one in twin.named_parameters())


@pytest.mark.parametrize("inner_net", ["mlp_1_dual", "mlp_2_dual", *NETS])
def test_fed_tokens_give_the_same_logits_in_a_graph(inner_net: str) -> None:
    """Of plain PyTorch, as the reference is, and of kernels that overlap."""
    plan = make_plan(RunConfig.parse({**PROFILE, "inner_net": inner_net}))
    model: Any = plan.entry.factory(plan.request)
    decoder = ModelDecoder(model, 4, torch.device("cuda"))
    tokens = torch.randint(model.vocab_size, (4, 40), generator=torch.Generator().manual_seed(0)).cuda()

    def logits() -> torch.Tensor:
        fed = (decoder.feed(one).clone() for one in tokens[:, 1:].unbind(1))
        return torch.stack([decoder.start(tokens[:, :1]).clone(), *fed])

    expected = logits()
    assert expected.std() > 0
    with decoder.replaying_feed():
        for _ in range(2):
            assert torch.equal(logits(), expected)


@pytest.mark.skipif(missing_fla() is not None, reason="flash-linear-attention is not installed")
@pytest.mark.parametrize(
    ("name", "functions"), [("gated-deltanet-tiny", "delta_functions"), ("rwkv7-tiny", "functions")]
)
def test_the_plain_twin_of_a_peer(name: str, functions: str, tmp_path: Path) -> None:
    plan = make_plan(RunConfig.parse({**PROFILE, "model_name": name, "inner_net": None}))
    model: Any = plan.entry.factory(plan.request)
    twin: Any = Twins(plan.entry, plan.request).build(model, torch.float16)
    assert getattr(model.layers[0], functions).__name__.endswith(".decode")
    assert getattr(twin.layers[0], functions).__name__.endswith(".reference")
    found = compared(tmp_path, model_name=name, inner_net=None).metrics
    assert 0 < found["accuracy_logits_error"] < 1.2 * found["accuracy_yardstick_logits_error"]


def test_prefill_kernels(tmp_path: Path) -> None:
    measured = compared(tmp_path, inner_net=NETS[0], mode="prefill", promptlen=300, batch=4)
    assert measured.metrics["accuracy_positions"] == 512
    assert measured.metrics["accuracy_logits_error"] < 1.2 * measured.metrics["accuracy_yardstick_logits_error"]


@pytest.mark.skipif(missing() is not None, reason="mamba-ssm is not installed")
def test_mamba_beside_its_own_code_in_float32(tmp_path: Path) -> None:
    measured = compared(tmp_path, model_name="state-spaces/mamba-130m", batch=4, genlen=64)
    found = json.loads((measured.journal.artifacts / "profiles/accuracy/accuracy.json").read_text())
    assert found["reference"] == "the model's own code, float32"
    assert found["yardstick"] is None
    assert 0 < measured.metrics["accuracy_logits_error"] < 0.05
    assert measured.metrics["accuracy_eager_differing_tokens_pct"] == 0

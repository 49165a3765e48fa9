"""The group of a layer's kernels: its names, the batches that they take, and a run of such kernels on a CPU."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.nn.functional import linear

from tests.installed import Install, installed
from tests.micro.test_micro_run import measured_in
from tests.micro.test_plan import on_machine
from tests.profilers.fake_nsys import FakeNsys
from ttt_mlflow.cli import cli
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels.block import reference
from ttt_mlflow.kernels.overlapped import shape
from ttt_mlflow.micro import micro_run
from ttt_mlflow.micro.entry import KernelEntry
from ttt_mlflow.micro.layer_entries import LAYER
from ttt_mlflow.micro.nsys_child import Order
from ttt_mlflow.micro.plan import MicroPlan, make_plan
from ttt_mlflow.micro.registry import DEFAULT_CPU, DEFAULT_GPU

__all__ = ["installed"]
PRODUCTS = ("projection", "o_proj", "gate_up", "down_proj", "head")
SMALL = ("conv_rms_norm", "qk_conv_rotary", "gated_layer_norm", "add_rms_norm")
ALL = [
    *(f"{product}_{by}" for product in PRODUCTS for by in ("cublas", "stream")),
    *(f"{kernel}_{by}" for kernel in SMALL for by in ("triton", "overlap")),
    "swiglu_triton",
]
NARROW: dict[str, Any] = {"heads": 2, "head_dim": 16, "intermediate": 40, "vocab": 70}
PRODUCT = KernelEntry("product", "o_proj", "none", lambda: linear, "", largest_batch=lambda: 2)
NORM = KernelEntry("norm", "add_rms_norm", "none", lambda: reference.add_rms_norm, "")


def settle(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool = True, capability: tuple[int, int] = (10, 0), **asked: object
) -> MicroPlan:
    on_machine(monkeypatch, has_gpu)
    monkeypatch.setattr(shape, "has_warpgroups", lambda device: capability[0] == 9)
    return make_plan(MicroConfig.parse(asked))


def test_the_group_is_all_of_them_and_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = settle(monkeypatch, kernels="layer,mlp_1_dual_triton,head_cublas", batches="1,16,128")
    assert [entry.name for entry in plan.entries] == [*ALL, "mlp_1_dual_triton"]
    assert plan.used.kernels == (*ALL, "mlp_1_dual_triton")
    assert not set(ALL) & {*DEFAULT_GPU, *DEFAULT_CPU}
    again = make_plan(plan.used)
    assert again.used == plan.used, "what was used can be asked for"


def test_overlapping_kernels_take_128_sequences_on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = settle(monkeypatch, capability=(9, 0), kernels="layer", batches="1,16,128,256")
    some = ",".join(name for name in ALL if name.endswith(("_stream", "_overlap")))
    assert plan.notices == [f"batches: 256 left out for {some}: they take up to 128"]


def test_overlapping_kernels_take_16_sequences_elsewhere_and_a_notice_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = settle(monkeypatch, kernels="layer", batches="1,16,128")
    for name in ALL:
        batches = [batch for entry, batch in plan.cells if entry.name == name]
        assert batches == ([1, 16] if name.endswith(("_stream", "_overlap")) else [1, 16, 128])
    some = ",".join(name for name in ALL if name.endswith(("_stream", "_overlap")))
    assert plan.notices == [f"batches: 128 left out for {some}: they take up to 16"]
    assert settle(monkeypatch, kernels="layer", batches="1,16").notices == []


def test_batches_of_which_a_kernel_takes_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput) as refused:
        settle(monkeypatch, kernels="o_proj_cublas,o_proj_stream", batches="17,128")
    assert str(refused.value) == (
        "kernels=o_proj_stream: they take batches of up to 16, and batches=17,128 has none; "
        "add one, or choose other kernels"
    )  # fmt: skip


def test_a_dtype_that_a_kernel_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput) as refused:
        settle(monkeypatch, kernels="o_proj_cublas,o_proj_stream,head_stream", batches="1", dtype="float32")
    assert str(refused.value) == "dtype=float32: o_proj_stream, head_stream take bfloat16 and float16"
    settle(monkeypatch, kernels="o_proj_cublas", batches="1", dtype="float32")


def test_they_are_refused_on_a_cpu_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=f"kernels={','.join(ALL)}: they need a GPU"):
        settle(monkeypatch, has_gpu=False, kernels="layer")


def test_the_list_says_what_the_group_stands_for() -> None:
    listed = CliRunner().invoke(cli, ["micro", "--list"]).stdout.splitlines()
    (line,) = (line for line in listed if line.startswith("layer "))
    assert line.split(None, 1)[1] == f"all of {', '.join(ALL)}"


@pytest.mark.parametrize(("form", "mode"), [("rank-1", "decode"), ("none", "prefill")])
def test_they_keep_nothing_and_take_no_prompt(form: str, mode: str) -> None:
    with pytest.raises(ValueError, match=r"is not one of (none|decode)$"):
        KernelEntry("k", "head", form, lambda: linear, "", mode=mode)
    with pytest.raises(ValueError, match="'none' is not one of rank-1, accumulating"):
        KernelEntry("k", "linear", "none", lambda: linear, "")


def test_a_run_of_them_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_gpu(run: micro_run.MicroRun) -> None:
        run.results.ceilings = {"card_read_gb_per_s": 1.0, "card_copy_gb_per_s": 1.0, "card_matmul_tflops": 0.001}

    monkeypatch.setattr(micro_run.MicroRun, "_measure_gpu", measure_gpu)
    run = measured_in(tmp_path / "runs", PRODUCT, NORM, batches="1,2,3", kernels="mlp_1_dual", **NARROW)
    assert run.failure is None, run.log
    assert run.batches("kernel_gb_per_s", "product") == [1, 2], "the largest batch that it takes"
    for metric in ("kernel_us", "kernel_gb_per_s", "kernel_read_ceiling_pct", "kernel_roofline_pct"):
        assert run.batches(metric, "norm") == [1, 2, 3]
    assert run.batches("kernel_tflops", "norm") == []
    assert 0 < run.journal.metrics["kernel_error/product"] < 1e-3
    table = pd.read_csv(run.journal.artifacts / "micro/table.csv")
    norms = table[table["kernel"] == "norm"]
    assert norms["roofline_pct"].tolist() == norms["read_ceiling_pct"].tolist(), "no products: the bytes alone"
    assert norms["floor_bytes"].tolist() == [2 * 32 * (4 * batch + 1) for batch in (1, 2, 3)]
    page = (run.journal.artifacts / "micro/kernels.html").read_text()
    assert "roofline of the output projection" in page
    assert "roofline of the sum and its norm" in page
    assert "- fastest o_proj kernel: product batch 1: " in run.journal.description
    assert run.journal.run_name.startswith("2 kernels b1,2,3 h2x16 i40 v70 cpu")


def test_a_kernel_that_depends_on_the_batch_is_checked_with_each(tmp_path: Path) -> None:
    def right_for_two(x: Tensor, weight: Tensor) -> Tensor:
        return linear(x, weight) * (1.0 if len(x) == 2 else 1.01)

    product = KernelEntry("product", "o_proj", "none", lambda: right_for_two, "", by_batch=True)
    run = measured_in(tmp_path / "runs", product, NORM, batches="2", kernels="mlp_1_dual", **NARROW)
    assert run.failure is None, run.log
    run = measured_in(tmp_path / "more", product, NORM, batches="2,3", kernels="mlp_1_dual", **NARROW)
    assert "product: not timed: wrong result with batch 3: relative error 1.0e-02" in str(run.failure)
    assert run.batches("kernel_us", "product") == []
    assert run.batches("kernel_us", "norm") == [2, 3]
    assert 0.009 < run.journal.metrics["kernel_error/product"] < 0.011


def test_nsys_runs_the_batches_that_were_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[Order] = []
    monkeypatch.setattr(
        micro_run, "profile", lambda nsys, command, *_: orders.append(Order.model_validate_json(command[-1]))
    )
    run = measured_in(
        tmp_path / "runs", PRODUCT, nsys=FakeNsys(tmp_path), batches="1,2,3", kernels="mlp_1_dual", **NARROW
    )
    assert run.failure is None, run.log
    (order,) = orders
    assert order.config.batches == (1, 2), "not the default, of which a kernel may take none"
    assert order.cells == [("product", 1), ("product", 2)]


CODE = """
from ttt_mlflow.micro import KernelEntry

def load():
    from torch.nn.functional import linear
    return linear

entry = KernelEntry("theirs", "projection", "none", load, "a product of theirs")
"""


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("linear", None),
        ("lambda x, w: linear(x, w).float()", "it returns torch.float32 [2, 448], not torch.float16 [2, 448]"),
        ("lambda x, w: linear(x.zero_(), w)", "a call changes no argument: it changes x"),
    ],
)
def test_another_packages_product_is_tried(returned: str, said: str | None, installed: Install) -> None:
    code = CODE.replace("return linear", f"return {returned}").replace('theirs")', 'theirs", dtypes=("float16",))')
    installed("ttt_mlflow.kernels", "their_kernels", code, "mine = their_kernels:entry")
    done = CliRunner().invoke(cli, ["micro", "--check", "theirs"])
    assert done.exit_code == (1 if said else 0), done.output
    if said:
        assert said in done.stdout
    else:
        assert "ok       float16: 1 tokens are right, against float64 (" in done.stdout


def test_the_dtype_of_the_default_is_one_that_all_take() -> None:
    default = MicroConfig().dtype
    assert all(not entry.dtypes or default in entry.dtypes for entry in LAYER)
    assert all(hasattr(torch, dtype) for entry in LAYER for dtype in entry.dtypes)

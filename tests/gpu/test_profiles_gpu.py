"""The profiling passes on a GPU: kernels with their parts, eager and in a graph."""

import gc
import json
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.catalog import ARTIFACT_PATHS
from tests.runs import Carried, measured_in
from ttt_mlflow.errors import BadInput
from ttt_mlflow.profilers.nsys import find_nsys
from ttt_mlflow.profilers.step_profile import kernel_table, part_table, profile_of
from ttt_mlflow.profilers.torch_profiler import record
from ttt_mlflow.profilers.trace import read_steps
from ttt_mlflow.workload import ATTENTION, INNER, PARTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = torch.device("cuda", 0)
# four layers of the 1b widths
PROFILE: dict[str, Any] = {"model_name": "ttt-profile", "batch": 64, "genlen": 32, "warmup": 2, "repeats": 3}
LAYERS, STEPS = 4, 16


def profiled(tmp_path: Path, **asked: Any) -> Carried:
    measured = measured_in(tmp_path, {**PROFILE, **asked})
    assert measured.failure is None, measured.log
    assert measured.artifacts <= ARTIFACT_PATHS
    return measured


def test_a_product_alone() -> None:
    matrix = torch.randn(2048, 2048, device=DEVICE)
    steps = read_steps(record(lambda: torch.mm(matrix, matrix), 3, DEVICE).content, on_gpu=True)
    (row,) = kernel_table(steps, part_table(steps, {}))
    assert (row.calls, row.part) == (3, "unknown")
    profile = profile_of(steps)
    assert 0 < profile.busy_ms <= profile.step_ms
    assert profile.host_ms is not None
    assert profile.launch_gap_us is not None


@pytest.mark.parametrize(
    "asked",
    [
        {"use_compile": False, "cuda_graph": False},
        {"use_compile": False, "cuda_graph": True},
        {"use_compile": True, "cuda_graph": False},
        {"use_compile": True, "cuda_graph": True, "inner_net": "mlp_2_dual_triton"},
    ],
    ids=["eager", "graph", "compiled", "compiled graph"],
)
def test_every_kernel_has_its_part(asked: dict[str, Any], tmp_path: Path) -> None:
    measured = profiled(tmp_path, **asked, profile="torch")
    folder = measured.journal.artifacts / "profiles/torch"
    print((folder / "kernels.md").read_text())
    kernels = pd.read_csv(folder / "kernels.csv")
    (inner,) = (row for _, row in kernels.iterrows() if "_decode" in row["name"])
    assert (inner["part"], inner["calls"]) == (INNER, STEPS * LAYERS)
    unknown = kernels.loc[kernels["part"] == "unknown", "share_pct"].sum()
    assert unknown < (5 if asked["use_compile"] else 0.01)
    assert set(PARTS) - {ATTENTION} <= set(kernels["part"])
    step = json.loads((folder / "step.json").read_text())
    assert kernels["ms_per_step"].sum() == pytest.approx(step["busy_ms"])
    parts = sum(us for name, us in measured.metrics.items() if name.startswith("part_us/"))
    assert parts == pytest.approx(1e3 * step["busy_ms"], rel=1e-4)
    table = json.loads((measured.journal.artifacts / "profiles/kernels.json").read_text())
    assert len(table["data"]) == len(kernels)
    assert 0 <= measured.metrics["gpu_idle_pct"] < 100
    assert measured.metrics["launch_gap_us_mean"] >= 0
    assert measured.metrics["host_ms_per_step"] > 0


def test_a_prompt(tmp_path: Path) -> None:
    """Two mini-batches and eight tokens, in one kernel a layer."""
    measured = profiled(tmp_path, mode="prefill", promptlen=40, profile="torch")
    folder = measured.journal.artifacts / "profiles/torch"
    print((folder / "kernels.md").read_text())
    kernels = pd.read_csv(folder / "kernels.csv")
    assert set(PARTS) - {ATTENTION} <= set(kernels["part"])
    (inner,) = (row for _, row in kernels.iterrows() if "_prefill_tensor" in row["name"])
    assert (inner["part"], inner["calls"]) == (INNER, LAYERS)
    # nobody names what puts the state back to its beginning
    assert kernels.loc[kernels["part"] == "unknown", "share_pct"].sum() < 10


# Memory


def bytes_in_graph_pools() -> int:
    """What earlier graphs of this process hold, or left behind."""
    gc.collect()
    torch.cuda.empty_cache()
    segments = torch.cuda.memory_snapshot()
    return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0))


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
def test_the_memorys_parts_add_up_to_the_allocators(cuda_graph: bool, tmp_path: Path) -> None:
    left_before = bytes_in_graph_pools()  # cuBLAS keeps what it took while Mamba's graph was captured
    measured = profiled(tmp_path, use_compile=False, cuda_graph=cuda_graph, profile="memory", promptlen=17)
    folder = measured.journal.artifacts / "profiles/memory"
    table = (folder / "parts.md").read_text()
    print(table)
    assert table.endswith("The sums equal the allocator's.\n")
    parts = pd.read_csv(folder / "parts.csv").set_index("part")
    weights = 2 * measured.metrics["model_parameters"]
    held = parts["allocated_bytes"].to_dict()
    # padded rows of fused weights, tables of the rotary embedding, and the allocator's rounding on top
    assert weights <= held["weights"] < 1.1 * weights
    # 32 heads of 64 x 64 in 16 bits, and the convolutions and biases beside them
    state = LAYERS * PROFILE["batch"] * 32 * 64 * 64 * 2
    assert state < held["state"] < 1.2 * state
    assert held["vectors"] > 0
    assert parts["peak_bytes"].to_dict()["activations"] > 0, "the prompt's"
    assert (parts["reserved_bytes"].get("graph pool", 0) > left_before) == cuda_graph
    with (folder / "snapshot.pickle").open("rb") as file:
        snapshot = pickle.load(file)
    assert snapshot["device_traces"][0], "the pass's history"


# Nsight Systems


def test_all_three_of_one_run(tmp_path: Path) -> None:
    try:
        find_nsys()
    except BadInput as missing:
        pytest.skip(str(missing))
    asked = {"profile": "torch,nsys,memory", "nsys_export": "sqlite", "inner_net": "mlp_2_dual_triton"}
    measured = measured_in(tmp_path, {**PROFILE, **asked})
    folder = measured.journal.artifacts / "profiles/nsys"
    print((folder / "nsys.log").read_text())
    assert measured.failure is None, measured.log
    kernels = pd.read_csv(folder / "cuda_gpu_kern_sum.csv")
    (calls,) = kernels.loc[kernels["Name"].str.contains("mlp_decode"), "Instances"]
    assert calls == STEPS * LAYERS, "each kernel of the graph"
    ranges = pd.read_csv(folder / "nvtx_sum.csv")
    assert ranges["Range"].str.contains("step ").sum() == STEPS
    with sqlite3.connect(folder / "report.sqlite") as export:
        (rows,) = export.execute("select count(*) from CUPTI_ACTIVITY_KIND_KERNEL").fetchone()
    assert rows == kernels["Instances"].sum()
    assert measured.journal.tags["ttt.nsys"]


def test_nsys_of_an_eager_run_names_the_parts(tmp_path: Path) -> None:
    try:
        find_nsys()
    except BadInput as missing:
        pytest.skip(str(missing))
    measured = profiled(tmp_path, use_compile=False, cuda_graph=False, profile="nsys")
    ranges = pd.read_csv(measured.journal.artifacts / "profiles/nsys/nvtx_sum.csv")["Range"]
    for name in ("layer 3", INNER):
        assert ranges.str.endswith(name).any()

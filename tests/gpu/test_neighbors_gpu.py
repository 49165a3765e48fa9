"""Several GPUs of one host: what NVML tells of the others, and what each process of a sweep gets."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pynvml
import pytest
import torch

from tests.project import environment, new_store, run
from ttt_mlflow import names
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.telemetry.gpus import visible_gpus
from ttt_mlflow.telemetry.host_shares import host_shares, numa_nodes, numbers_in
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.telemetry.samples import summarize
from ttt_mlflow.telemetry.siblings import gpu_faults, why_lost

COUNT = torch.cuda.device_count() if torch.cuda.is_available() else 0
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not COUNT, reason="needs a CUDA GPU")]
several = pytest.mark.skipif(COUNT < 2, reason="needs two GPUs")
SMALL = ["--model-name=ttt-profile", "--genlen=32", "--max-seconds=6"]


def children_of(logdir: Path) -> list[Journal]:
    return [one for one in find_journals(logdir).journals if one.entry_point == "main"]


def facts_of(journal: Journal) -> dict[str, object]:
    return dict(json.loads((journal.artifacts / names.ARTIFACT_HOST.path).read_text()))


def test_every_gpu_has_a_share_of_the_cores_that_may_be_used() -> None:
    shares, usable = host_shares(), os.sched_getaffinity(0)
    assert {gpu.uuid for gpu in visible_gpus()} <= shares.keys()
    for uuid, share in shares.items():
        print(uuid, share.in_words)
        assert (share.threads or 0) >= 1 or len(shares) == 1
        assert set(share.cores) <= usable
    pinned = [core for share in shares.values() for core in share.cores]
    if numa_nodes() > 1 and len(pinned) >= len(shares) and len(usable) >= 2 * len(shares):
        assert len(pinned) == len(set(pinned)), "no core is given twice"


def test_idle_gpus_have_no_fault_and_are_not_lost() -> None:
    time.sleep(3)  # utilization covers up to a second: that of the tests before
    gpus = visible_gpus()
    assert gpu_faults(gpus) == []
    assert [why_lost(gpu.uuid) for gpu in gpus] == [None] * len(gpus)


def test_neighbors_are_those_that_nvml_lists() -> None:
    pynvml.nvmlInit()
    count = pynvml.nvmlDeviceGetCount()
    pynvml.nvmlShutdown()
    sampler = NvmlSampler.open(visible_gpus()[0].uuid)
    sampler.mark("begin")
    sampler._sample(with_neighbors=True)
    sampler.mark("end")
    sampler.stop()
    metrics = summarize(sampler.frame(), sampler.sections)
    assert len(sampler.neighbors()) == count - 1
    if count == 1:
        assert names.NEIGHBOR_GPUS_BUSY not in metrics
        return
    assert 0 <= metrics[names.NEIGHBOR_GPUS_BUSY] <= count - 1
    assert metrics[names.NEIGHBOR_POWER_W] > 10 * (count - 1), "an idle GPU draws some power too"
    costs = sampler.queries().set_index("query")
    print(costs.loc[["neighbors_utilization", "neighbors_power"], ["calls", "mean_us", "max_us"]])


@several
def test_runs_side_by_side_say_who_was_busy_and_what_was_pinned(tmp_path: Path) -> None:
    """Four runs on two GPUs: in the mean, most had a busy neighbor."""
    grid = [*SMALL, "--inner-net=mlp_1_dual_triton", "--batch=64,128,256,512", "--gpus=0,1"]
    command = [sys.executable, "-m", "ttt_mlflow", "sweep", *grid, f"--logdir={tmp_path / 'runs'}"]
    env = environment(new_store(tmp_path))
    env.pop("OMP_NUM_THREADS", None)
    done = run(command, env, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    children = children_of(tmp_path / "runs")
    assert len(children) == 4
    assert len({one.tags["ttt.gpu_uuid"] for one in children}) == 2
    busy = [one.metrics["neighbor_gpus_busy"] for one in children]
    assert max(busy) > 0.5, busy
    shares = host_shares()
    for one in children:
        assert "other_process" not in one.tags.get("ttt.reasons", "")
        assert one.metrics["neighbor_power_w"] > 0
        assert (one.artifacts / names.ARTIFACT_NEIGHBORS.path).is_file()
        facts, share = facts_of(one), shares[f"GPU-{one.tags['ttt.gpu_uuid']}"]
        assert facts["host_threads"] == share.threads
        if share.cores:
            assert numbers_in(str(facts["pinned_cores"])) == set(share.cores)
            assert facts["cpu_cores"] == len(share.cores)
        else:
            assert str(facts["pinned_cores"]).startswith("none")


@several
def test_exclusive_runs_have_no_busy_neighbor(tmp_path: Path) -> None:
    grid = [*SMALL, "--inner-net=mlp_1_dual_triton", "--batch=1,512,768", "--gpus=0,1", "--exclusive"]
    command = [sys.executable, "-m", "ttt_mlflow", "sweep", *grid, f"--logdir={tmp_path / 'runs'}"]
    done = run(command, environment(new_store(tmp_path)), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (alone,) = (one for one in children_of(tmp_path / "runs") if one.settings["batch"] == 1)
    assert alone.metrics["neighbor_gpus_busy"] < 0.2


@pytest.mark.skipif(COUNT != 1, reason="needs a host with one GPU")
def test_the_doctor_needs_two_gpus(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ttt_mlflow", "doctor", "--neighbors", f"--logdir={tmp_path / 'runs'}"]
    refused = run(command, environment(), tmp_path)
    assert refused.returncode == 2
    assert "neighbors: it takes two GPUs or more; this host has one that CUDA can use: 0 (" in refused.stderr


@several
@pytest.mark.long
def test_the_doctor_compares_alone_and_together(tmp_path: Path) -> None:
    """Some five minutes on two GPUs. No assertion on what is found: that is a measurement."""
    place = [f"--logdir={tmp_path / 'runs'}", "--json"]
    env = {**environment(new_store(tmp_path)), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "ttt_mlflow", "doctor", "--neighbors", *place]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    print(done.stdout)
    pairs = found["comparison"]["pairs"]
    assert [pair["title"].partition(":")[0] for pair in pairs] == ["launch-bound", "bandwidth-bound", "power-bound"]
    together = [one for one in children_of(tmp_path / "runs") if one.tags["ttt.side"] == "together"]
    assert len(together) == 3 * 2 * COUNT
    assert all(one.metrics["neighbor_gpus_busy"] > 0.8 * (COUNT - 1) for one in together)

"""What changed between two profiles: every change in its words, and all of them together the step's."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.names import (
    ARTIFACT_NSYS_KERNELS,
    ARTIFACT_NSYS_RANGES,
    ARTIFACT_TORCH_KERNELS_CSV,
    ARTIFACT_TORCH_STEP,
)
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.report import profile_diff as module
from ttt_mlflow.report.profile_diff import (
    IDLE,
    ProfiledStep,
    diff_csv,
    diff_markdown,
    diff_png,
    diff_text,
    profile_diff,
    read_profile,
    read_profiles,
)

A = ProfiledStep(
    "run A", "cuda", step_ms=10, idle_ms=1,
    kernels={("gemm", "projections"): 4, ("gemm", "feed-forward"): 3, ("old", "sampling"): 2},
)  # fmt: skip
B = ProfiledStep(
    "run B", "cuda", step_ms=8, idle_ms=0.5,
    kernels={("gemm", "projections"): 2.5, ("gemm", "feed-forward"): 3, ("new", "sampling"): 2},
)  # fmt: skip
TIMES = st.floats(0, 100, allow_nan=False)
KERNELS = st.dictionaries(st.tuples(st.sampled_from("abcde"), st.sampled_from(["x", "y"])), TIMES, max_size=8)


def step(kernels: dict[tuple[str, str], float], idle_ms: float) -> ProfiledStep:
    return ProfiledStep("a run", "cuda", sum(kernels.values()) + idle_ms, idle_ms, kernels)


def test_each_kernel_in_its_own_words() -> None:
    diff = profile_diff(A, B)
    assert [(change.name, change.part, change.word, change.change_ms) for change in diff.changes] == [
        ("old", "sampling", "vanished", -2),
        ("new", "sampling", "appeared", 2),
        ("gemm", "projections", "faster", -1.5),
        (IDLE, "", "faster", -0.5),
        ("gemm", "feed-forward", "same", 0),
    ]
    assert [change.share_pct for change in diff.changes] == pytest.approx([100, -100, 75, 25, 0])
    assert profile_diff(B, A).changes[2].word == "slower"


@given(KERNELS, KERNELS, TIMES, TIMES)
def test_the_changes_are_the_whole_change(
    a: dict[tuple[str, str], float], b: dict[tuple[str, str], float], a_idle: float, b_idle: float
) -> None:
    before, after = step(a, a_idle), step(b, b_idle)
    diff = profile_diff(before, after)
    assert diff.change_ms == pytest.approx(after.step_ms - before.step_ms, abs=1e-9)
    if abs(after.step_ms - before.step_ms) > 1e-6:
        assert sum(change.share_pct or 0 for change in diff.changes) == pytest.approx(100, abs=1e-3)
    assert {(change.name, change.part) for change in diff.changes} == {*a, *b, (IDLE, "")}


def test_a_profile_against_itself_has_no_shares() -> None:
    diff = profile_diff(A, A)
    assert {change.word for change in diff.changes} == {"same"}
    assert {change.share_pct for change in diff.changes} == {None}
    for text in (diff_text(diff), diff_markdown(diff)):
        assert "None" not in text
        assert "nan" not in text


def test_a_gpus_and_a_cpus_are_not_compared() -> None:
    with pytest.raises(BadInput, match="run A was profiled on cuda, on a CPU on cpu"):
        profile_diff(A, ProfiledStep("on a CPU", "cpu", 1, 1, {}))


def test_a_step_and_a_prompt_are_not_compared() -> None:
    with pytest.raises(BadInput, match="run A was profiled in mode=decode, run B in mode=prefill: compare two"):
        profile_diff(replace(A, mode="decode"), replace(B, mode="prefill"))
    assert profile_diff(replace(A, mode="decode"), B).changes, "a profile of an older version does not say its mode"


def test_what_was_measured_is_said_beside_it() -> None:
    """A profiler may make a step longer than it is, and one step more than another."""
    diff = profile_diff(replace(A, measured_ms=9.8), replace(B, measured_ms=4))
    expected = [
        "the step measured without a profiler changed from 9.8 ms to 4 ms: -5.8 ms, -59.2 %",
        "the profiler made B 100 % longer: its idle time is not the measured idle time",
    ]
    assert diff_text(diff).splitlines()[3:5] == expected
    assert "\n\n".join(expected) in diff_markdown(diff)
    one_known = profile_diff(replace(A, measured_ms=5), B)
    assert "the profiler made A 100 % longer" in diff_text(one_known)
    assert "without a profiler" not in diff_text(one_known)


def test_the_views(monkeypatch: pytest.MonkeyPatch) -> None:
    diff = profile_diff(A, B)
    table = pd.read_csv(io.StringIO(diff_csv(diff)))
    assert table["change_ms"].sum() == pytest.approx(-2)
    assert table.loc[table["name"] == "new", "a_ms"].isna().all()
    text = diff_text(diff)
    assert text.splitlines()[:2] == ["A: run A", "B: run B"]
    assert "a profiled step changed from 10 ms to 8 ms: -2 ms, -20.0 %" in text
    assert "| gemm | projections | faster | 4 | 2.5 | -1.5 | 75.0 % |" in diff_markdown(diff)
    assert "| the step |  |  | 10 | 8 | -2 | 100.0 % |" in diff_markdown(diff)
    assert diff_png(diff).startswith(b"\x89PNG")
    monkeypatch.setattr(module, "SHOWN", 2)
    assert "| 3 others |  |  | 8 | 6 | -2 | 100.0 % |" in diff_markdown(diff)
    assert diff_png(diff).startswith(b"\x89PNG")


# What a run left


STEP = {"device": "cuda", "steps": 16, "step_ms": 2, "busy_ms": 1.5, "idle_ms": 0.5}


def profiled(root: Path, step: object, kernels: str) -> LocalRun:
    """A run that was profiled."""
    journal = Journal.create(root, RunConfig.parse({"batch": 7}).model_dump(mode="json"))
    journal.write_artifact(ARTIFACT_TORCH_STEP, json.dumps(step))
    journal.write_artifact(ARTIFACT_TORCH_KERNELS_CSV, kernels)
    return LocalRun(journal)


def test_a_profile_is_read_back(tmp_path: Path) -> None:
    kernels = 'name,part,calls,ms_per_step\n"gemm<a, b>",projections,3,1.25\nscan,unknown,1,0.25\n'
    run = profiled(tmp_path, STEP, kernels)
    times = {("gemm<a, b>", "projections"): 1.25, ("scan", "unknown"): 0.25}
    expected = ProfiledStep(f"ttt-1b b7, {run.id}", "cuda", 2, 0.5, times)
    assert read_profile(run) == expected
    run.journal.write_artifact(ARTIFACT_TORCH_STEP, json.dumps({**STEP, "mode": "decode", "measured_ms": 1.75}))
    assert read_profile(run) == replace(expected, mode="decode", measured_ms=1.75)


def test_a_run_without_a_profile(tmp_path: Path) -> None:
    run = profiled(tmp_path, STEP, "")
    (run.journal.artifacts / ARTIFACT_TORCH_STEP.path).unlink()
    with pytest.raises(BadInput) as refused:
        read_profile(run)
    assert str(refused.value) == (
        f"ttt-1b b7, {run.id}: no profile to compare (it has neither profiles/torch/step.json nor "
        "profiles/nsys/cuda_gpu_kern_sum.csv); measure it with `ttt-mlflow run --profile torch`"
    )


@pytest.mark.parametrize(
    ("step", "kernels"), [({}, "name,part,ms_per_step\n"), ([], "name\n"), (STEP, "name,calls\na,1\n")]
)
def test_a_profile_of_another_version(step: object, kernels: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"ttt-1b b7, .*: its profile cannot be read"):
        read_profile(profiled(tmp_path, step, kernels))


NSYS_KERNELS = (
    'Time (%),Total Time (ns),Instances,Avg (ns),Name\n75.0,3000000,4,750000.0,"scan<a, b>"\n25.0,1000000,2,5e5,fill\n'
)
NSYS_RANGES = "Time (%),Total Time (ns),Instances,Range\n50.0,5,1,:step 0\n50.0,5,1,:step 1\n1.0,1,48,:layer\n"


def profiled_by_nsys(root: Path, kernels: str = NSYS_KERNELS, ranges: str = NSYS_RANGES) -> LocalRun:
    journal = Journal.create(root, RunConfig.parse({"batch": 7}).model_dump(mode="json"))
    journal.update_params({"mode": "decode"})
    journal.write_artifact(ARTIFACT_NSYS_KERNELS, kernels)
    journal.write_artifact(ARTIFACT_NSYS_RANGES, ranges)
    return LocalRun(journal)


def test_a_profile_of_nsys_is_read_per_step(tmp_path: Path) -> None:
    step = read_profile(profiled_by_nsys(tmp_path))
    assert step.kernels == {("scan<a, b>", ""): 1.5, ("fill", ""): 0.5}
    assert (step.step_ms, step.idle_ms, step.mode, step.profiler) == (2.0, 0.0, "decode", "nsys")
    diff = profile_diff(step, read_profile(profiled_by_nsys(tmp_path, NSYS_KERNELS.replace("3000000", "2000000"))))
    assert "the kernels of a profiled step changed from 2 ms to 1.5 ms" in diff_text(diff)


def test_two_profiles_of_one_kind_are_taken(tmp_path: Path) -> None:
    torch, nsys = profiled(tmp_path, STEP, "name,part,calls,ms_per_step\n"), profiled_by_nsys(tmp_path)
    both = profiled_by_nsys(tmp_path)
    both.journal.write_artifact(ARTIFACT_TORCH_STEP, json.dumps(STEP))
    both.journal.write_artifact(ARTIFACT_TORCH_KERNELS_CSV, "name,part,calls,ms_per_step\n")
    assert [one.profiler for one in read_profiles(both, torch)] == ["torch", "torch"]
    assert [one.profiler for one in read_profiles(both, nsys)] == ["nsys", "nsys"]
    with pytest.raises(BadInput, match=r"has a profile of torch, .* one of nsys: measure both with the same profiler"):
        read_profiles(torch, nsys)


@pytest.mark.parametrize(
    ("kernels", "ranges"), [("nothing\n", NSYS_RANGES), (NSYS_KERNELS, "Instances,Range\n1,:layer\n"), ("", "")]
)
def test_tables_of_nsys_that_cannot_be_read(tmp_path: Path, kernels: str, ranges: str) -> None:
    with pytest.raises(BadInput, match="its profile cannot be read"):
        read_profile(profiled_by_nsys(tmp_path, kernels, ranges))

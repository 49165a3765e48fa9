"""The profiling passes of a run on the CPU: what they leave, and what they do when something stands in the way."""

import errno
import gzip
import json
import pickle
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from tests.catalog import ARTIFACT_PATHS
from tests.profilers.fake_nsys import FakeNsys
from tests.profilers.snapshots import eager_pass
from tests.profilers.traces import ComposedTrace, two_eager_steps, two_replays
from tests.runs import Carried, measured_in
from ttt_mlflow.app.measure import new_record
from ttt_mlflow.cli import cli
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import Killed, RunFailed
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.entry import Decoder
from ttt_mlflow.models.transformer.model import TransformerModel
from ttt_mlflow.models.transformer.state import TransformerState
from ttt_mlflow.names import Artifact
from ttt_mlflow.profilers import memory, torch_profiler
from ttt_mlflow.record import journal
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.room import FOLDER
from ttt_mlflow.run import profile
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prepare import Prepared
from ttt_mlflow.workload import ATTENTION, CONVOLUTION, INNER, PARTS

TINY = {"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "genlen": 4, "warmup": 0, "repeats": 2}
Measure = Callable[..., Carried]
NO_MODEL: Any = None  # of passes that need the decoder alone


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    return partial(measured_in, tmp_path / "runs")


def read(measured: Carried, name: str) -> str:
    return (measured.journal.artifacts / "profiles/torch" / name).read_text()


def step_of(measured: Carried) -> dict[str, Any]:
    return json.loads(read(measured, "step.json"))


def kernels_of(measured: Carried) -> pd.DataFrame:
    return pd.read_csv(measured.journal.artifacts / "profiles/torch/kernels.csv")


@pytest.mark.parametrize("asked", [{}, {"mode": "prefill", "promptlen": 20}], ids=["decode", "prefill"])
def test_an_eager_pass_names_every_part(asked: dict[str, object], measure: Measure) -> None:
    measured = measure({**TINY, **asked, "profile": "torch"})
    assert measured.failure is None, measured.log
    step, kernels = step_of(measured), kernels_of(measured)
    assert (step["steps"], step["mode"]) == ((1, "prefill") if asked else (4, "decode"))
    assert kernels["ms_per_step"].sum() == pytest.approx(step["busy_ms"])
    assert step["busy_ms"] + step["idle_ms"] == pytest.approx(step["step_ms"])
    assert set(PARTS) - set(kernels["part"]) == {ATTENTION}
    # between the model's parts the prompt's pass has what resets the state: it moves numbers, and computes none
    unknown = set(kernels.loc[kernels["part"] == "unknown", "name"])
    arithmetic = {"mm", "addmm", "bmm", "matmul", "linear", "mul", "add", "sum", "rsqrt", "sigmoid"}
    assert not unknown if not asked else not unknown & {f"aten::{name}" for name in arithmetic}
    parts = pd.read_csv(measured.journal.artifacts / "profiles/torch/parts.csv")
    rooflines = pd.read_csv(measured.journal.artifacts / "roofline/parts.csv")
    own = parts[parts["part"] != "unknown"]
    assert own["min_bytes"].tolist() == rooflines["bytes"].tolist()
    assert "trace-eager.json.gz" not in {
        path.name for path in (measured.journal.artifacts / "profiles/torch").iterdir()
    }
    assert measured.journal.run_name in read(measured, "open.html")


def test_the_trace_is_whole_and_as_the_profiler_wrote_it(measure: Measure) -> None:
    measured = measure({**TINY, "profile": "torch"})
    with gzip.open(measured.journal.artifacts / "profiles/torch/trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert [name for name in names if name.startswith("step ")] == [f"step {index}" for index in range(4)]
    assert names.count("layer 1") == 4


@pytest.mark.long
def test_a_compiled_pass_takes_its_parts_from_an_eager_one(measure: Measure) -> None:
    measured = measure({**TINY, "use_compile": True, "profile": "torch"})
    assert measured.failure is None, measured.log
    assert "profiles/torch/trace-eager.json.gz" in measured.artifacts
    assert "come from an eager step" in read(measured, "kernels.md")
    kernels = kernels_of(measured)
    assert "unknown" in set(kernels["part"]), "compiled code itself"
    (part,) = set(kernels.loc[kernels["name"] == "aten::argmax", "part"])
    assert part == "sampling"


def test_growing_steps_are_profiled_where_they_cost_the_mean(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 of 40 steps after a prompt of 5: at the positions 17 to 32, whose mean is that of 5 to 44."""
    positions: list[int] = []
    step = TransformerModel.step

    def noted(self: TransformerModel, tokens: Tensor, state: TransformerState) -> Tensor:
        positions.append(int(state.position))
        return step(self, tokens, state)

    monkeypatch.setattr(TransformerModel, "step", noted)
    asked = {**TINY, "model_name": "transformer-tiny", "promptlen": 5, "genlen": 40, "profile": "torch"}
    measured = measure(asked)
    assert measured.failure is None, measured.log
    assert positions[-16:] == list(range(17, 33))
    assert set(PARTS) - set(kernels_of(measured)["part"]) == {CONVOLUTION, INNER}
    assert measured.metrics["part_us/attention_and_cache"] > 0


# A GPU's traces, composed


class Replayed:
    """A decoder whose steps nobody runs: what the profiler would have recorded of them is given."""

    def prefill(self, prompt: Tensor) -> Tensor:
        return prompt[:, 0]

    def step(self) -> Tensor:
        raise AssertionError("the profiler is played")

    def close(self) -> None:
        pass


class ReplayedWithEager(Replayed):
    eagerly = nullcontext


def trace_of(composed: ComposedTrace) -> torch_profiler.Trace:
    return torch_profiler.Trace(json.dumps(composed.content).encode(), composed.content)


def gpu_passes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, graph: ComposedTrace, eager: ComposedTrace | Exception | None
) -> profile.Profiles:
    """The passes of a graph run with ``graph`` as its trace, and ``eager`` as that of the eager step beside it."""

    def record(
        step: Callable[[], object], n: int, device: torch.device, before: Callable[[], object] | None = None
    ) -> torch_profiler.Trace:
        if n > 1:
            return trace_of(graph)
        if isinstance(eager, Exception):
            raise eager
        assert eager
        return trace_of(eager)

    monkeypatch.setattr(torch_profiler, "record", record)
    plan = make_plan(RunConfig.parse({**TINY, "inner_net": "mlp_1_dual", "profile": "torch"}))
    plan = replace(plan, used=plan.used.model_copy(update={"cuda_graph": True}))
    profiles = profile.Profiles(new_record(plan, folder), plan, profile.Measured(None, (), 0.0))
    profiles.on_gpu = True
    decoder = Replayed() if eager is None else ReplayedWithEager()
    profiles.of_the_decoder(Prepared(torch.zeros(2, 1, dtype=torch.int64), decoder, NO_MODEL))
    return profiles


def test_whole_periods_of_the_model_are_profiled(tmp_path: Path) -> None:
    plan = make_plan(RunConfig.parse({**TINY, "genlen": 100, "profile": "torch"}))
    prepared = Prepared(torch.zeros(2, 1, dtype=torch.int64), Replayed(), NO_MODEL)
    counts = []
    for period in (16, 24):
        plan = replace(plan, entry=replace(plan.entry, period=period))
        profiles = profile.Profiles(new_record(plan, tmp_path), plan, profile.Measured(None, (), 0.0))
        counts.append(profiles._profiled_step(prepared)[1])
    assert counts == [16, 24]


def test_a_graphs_steps_take_their_parts_from_an_eager_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = gpu_passes(tmp_path, monkeypatch, two_replays(), two_eager_steps())
    assert profiles.problems == []
    journal = profiles.record
    parts = {name: us for name, us in journal.metrics.items() if name.startswith("part_us/")}
    assert set(parts) == {"part_us/projections", "part_us/inner_net_state", "part_us/unknown"}
    assert sum(parts.values()) == pytest.approx(50)
    others = {name: value for name, value in journal.metrics.items() if name not in parts}
    expected = {"gpu_idle_pct": 100 * 30 / 130, "launch_gap_us_mean": 6, "host_ms_per_step": 0.008}
    assert others == pytest.approx({**expected, "profiled_step_ms": 0.065}, rel=1e-5)
    folder = journal.artifacts / "profiles/torch"
    kernels = pd.read_csv(folder / "kernels.csv").set_index("name")["part"].to_dict()
    assert kernels == {"gemm": "projections", "decode": "inner net state", "Memset": "unknown"}
    assert (folder / "trace-eager.json.gz").exists()
    assert "come from an eager step" in (folder / "kernels.md").read_text()
    step = json.loads((folder / "step.json").read_text())
    assert (step["device"], step["busy_ms"], step["step_ms"]) == ("cuda", pytest.approx(0.05), pytest.approx(0.065))
    assert "measured_ms" not in step


@pytest.mark.parametrize(
    ("eager", "note"),
    [
        (None, "the model's own decoder has no eager step"),
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit into the memory"),
    ],
)
def test_without_an_eager_step_parts_are_not_known(
    eager: Exception | None, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = gpu_passes(tmp_path, monkeypatch, two_replays(), eager)
    assert profiles.problems == []
    folder = profiles.record.artifacts / "profiles/torch"
    assert set(pd.read_csv(folder / "kernels.csv")["part"]) == {"unknown"}
    assert note in (folder / "kernels.md").read_text()


def test_no_kernel_at_all_is_a_failure_that_leaves_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another profiler holds the GPU: only the host's side is seen."""
    empty = ComposedTrace()
    empty.range("step 0", 0, 10)
    profiles = gpu_passes(tmp_path, monkeypatch, empty, None)
    (problem,) = profiles.problems
    assert "recorded no GPU kernel" in problem
    assert {path.name for path in (profiles.record.artifacts / "profiles/torch").iterdir()} == {"trace.json.gz"}


# Faults


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Writing the artifact ``name`` fails as on a full disk."""
    write = Journal.write_artifact

    def write_artifact(self: Journal, one: Artifact, data: bytes | str, reserved: bool = False) -> Path:
        if one.path == name:
            raise OSError(errno.ENOSPC, "No space left on device", one.path)
        return write(self, one, data, reserved)

    monkeypatch.setattr(Journal, "write_artifact", write_artifact)


def test_a_full_disk_costs_the_profile_alone(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, "profiles/torch/trace.json.gz")
    measured = measure({**TINY, "profile": "torch"})
    message = (
        "profile=torch: cannot be written (No space left on device); "
        f"free some space in {measured.journal.path.parent} and profile again; "
        "the measurement before it is complete"
    )
    assert type(measured.failure) is RunFailed
    assert measured.journal.status["message"] == str(measured.failure) == message
    assert measured.metrics["decode_tokens_per_s"] > 0
    assert not any(name.startswith("profiles/") for name in measured.artifacts)
    assert "No space left on device" in measured.log


def test_a_disk_that_the_profile_fills_has_room_for_the_end_of_the_record(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the trace on it is full, up to what is reserved."""
    write, filled = journal.write_whole, []

    def full(path: Path, data: bytes, folder: Path, before: Callable[[], None]) -> None:
        if path.name == "trace.json.gz":
            filled.append(path)
        if filled:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write(path, data, folder, before)

    monkeypatch.setattr(journal, "write_whole", full)
    measured = measure({**TINY, "profile": "torch"})
    assert "No space left on device" in measured.journal.status["message"]
    assert measured.journal.status["status"] == "error"
    assert {path.name for path in measured.journal.path.iterdir()} <= {
        *("config.json", "status.json", "params.json", "metrics.json", "tags.json", "series.json"),
        *("description.md", "artifacts", "checksums.jsonl", FOLDER),
    }


# Memory: a GPU's allocator, composed


def test_the_memory_pass_runs_a_prompt_and_a_few_steps(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    profiled_step = profile.Profiles._profiled_step

    def counted(self: profile.Profiles, prepared: Prepared) -> tuple[Callable[[], object], int]:
        ran.append("prompt")
        step, count = profiled_step(self, prepared)
        return (lambda: ran.append("step") or step()), count  # type: ignore[func-returns-value]

    def record(action: Callable[[], object], device: torch.device) -> memory.Recorded:
        action()
        return eager_pass()

    monkeypatch.setattr(profile.Profiles, "_profiled_step", counted)
    monkeypatch.setattr(memory, "record", record)
    measured = measure(TINY, profile=("memory",))
    assert measured.failure is None, measured.log
    assert ran == ["prompt", *["step"] * 4]
    folder = measured.journal.artifacts / "profiles/memory"
    assert {path.name for path in folder.iterdir()} == {"snapshot.pickle", "parts.csv", "parts.md", "open.html"}
    assert measured.artifacts <= ARTIFACT_PATHS
    assert pickle.loads((folder / "snapshot.pickle").read_bytes()) == eager_pass().snapshot
    assert "other" in (folder / "parts.csv").read_text()


# Nsight Systems, played by a shell script; the process that it records is the real one


def test_nsys_records_the_same_configuration(measure: Measure, tmp_path: Path) -> None:
    fake = FakeNsys(tmp_path)
    measured = measure({**TINY, "inner_net": "mlp_2_dual"}, nsys=fake.find())
    assert measured.failure is None, measured.log
    assert {name for name in measured.artifacts if name.startswith("profiles/")} == {"profiles/kernels.json"} | {
        f"profiles/nsys/{name}"
        for name in ("report.nsys-rep", "cuda_gpu_kern_sum.csv", "cuda_api_sum.csv", "nvtx_sum.csv", "nsys.log")
    }
    assert measured.artifacts <= ARTIFACT_PATHS
    assert measured.journal.tags["ttt.nsys"] == fake.version
    table = json.loads((measured.journal.artifacts / "profiles/kernels.json").read_text())
    assert table == {  # of 16 steps
        "columns": ["kernel", "us_per_step", "share_pct", "calls", "part"],
        "data": [["linear_decode(float *, int)", 0.1875, 75.0, 0.125, ""], ["fill", 0.0625, 25.0, 0.0625, ""]],
    }
    log = (measured.journal.artifacts / "profiles/nsys/nsys.log").read_text()
    assert "ran 16 of ttt-tiny mlp_2_dual b2 g4 cpu" in log


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo the driver says no; exit 3", "ended with exit code 3 and left no report: the driver says no"),
        ("exec sleep 600", "the profiled process did not end within 2 s and was stopped; see nsys.log"),
        ('echo a recording > "$stem.qdstrm"', "the recording is kept as report.qdstrm"),
        ("echo nothing was captured", "nsys left no report: nothing was captured"),
    ],
    ids=["fails", "hangs", "qdstrm", "nothing"],
)
def test_an_nsys_that_fails_keeps_the_measurement(
    script: str, said: str, measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(profile, "NSYS_LIMIT_S", 2.0)
        monkeypatch.setattr(profile, "NSYS_LIMIT_FACTOR", 0.0)
    measured = measure(TINY, nsys=FakeNsys(tmp_path, profile=script).find())
    message = measured.journal.status["message"]
    assert message.startswith("profile=nsys: ")
    assert said in message
    assert message.endswith("; the measurement before it is complete")
    assert measured.journal.status["status"] == "error"
    assert measured.metrics["decode_tokens_per_s"] > 0
    assert "profiles/nsys/nsys.log" in measured.artifacts
    assert ("profiles/nsys/report.qdstrm" in measured.artifacts) == ("qdstrm" in script)


def test_an_nsys_that_is_gone_by_then(measure: Measure, tmp_path: Path) -> None:
    nsys = FakeNsys(tmp_path).find()
    nsys.path.unlink()
    message = measure(TINY, nsys=nsys).journal.status["message"]
    assert message.startswith("profile=nsys: FileNotFoundError: ")
    assert str(nsys.path) in message


def test_one_pass_that_fails_costs_no_other(measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full_disk(monkeypatch, "profiles/torch/trace.json.gz")
    measured = measure(TINY, nsys=FakeNsys(tmp_path).find(), profile=("torch", "nsys"))
    assert measured.journal.status["message"].startswith("profile=torch: cannot be written (No space left on device)")
    assert "profiles/nsys/report.nsys-rep" in measured.artifacts


def test_a_signal_between_two_passes(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model's memory is given back."""

    def interrupted(decoder: Decoder) -> None:
        raise Killed(signal.SIGINT)

    monkeypatch.setattr(ModelDecoder, "close", interrupted)
    measured = measure({**TINY, "profile": "torch"})
    message = "stopped by SIGINT while profiling, after a complete measurement"
    assert (measured.journal.status["status"], measured.journal.status["message"]) == ("killed", message)
    assert "profiles/torch/open.html" in measured.artifacts


# Two profiles


def test_two_runs_on_the_command_line(measure: Measure, tmp_path: Path) -> None:
    first, second = (measure({**TINY, "inner_net": name, "profile": "torch"}) for name in ("mlp_1_dual", "mlp_2_dual"))
    out = tmp_path / "diff"
    asked = [str(first.journal.path), second.journal.journal_id, "--logdir", str(second.journal.path.parent)]
    result = CliRunner().invoke(cli, ["profile-diff", *asked, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"diff.csv", "diff.md", "diff.png"}
    changes = pd.read_csv(out / "diff.csv")
    change = step_of(second)["step_ms"] - step_of(first)["step_ms"]
    assert changes["change_ms"].sum() == pytest.approx(change)
    inner = changes[changes["part"] == "inner net state"].set_index("name")
    assert inner["word"].to_dict()["aten::gelu"] == "appeared"
    assert first.journal.run_name in result.output
    assert "the step measured without a profiler changed from " in result.output


def test_a_run_without_a_profile_on_the_command_line(measure: Measure) -> None:
    measured = measure(TINY)
    result = CliRunner().invoke(cli, ["profile-diff", str(measured.journal.path), str(measured.journal.path)])
    assert result.exit_code == 2
    assert "measure it with `ttt-mlflow run --profile torch`" in result.output
    assert "Traceback" not in result.output

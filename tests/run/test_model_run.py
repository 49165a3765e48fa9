"""Whole runs on the CPU, and what the journal holds after each way in which a run can end."""

import gc
import io
import json
import logging
import signal
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.catalog import ARTIFACT_PATHS, METRIC_NAMES
from tests.runs import Carried, a_signal_at_the_first_end, measured_in
from tests.telemetry.fake_nvml import GPU_UUID, NOT_SUPPORTED, OTHER_UUID, FakeNvml, process
from ttt_mlflow import names
from ttt_mlflow.app.signals import SignalHandler
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import Killed, OutOfMemory, RunFailed, end_if_asked
from ttt_mlflow.measurement.method import METHOD
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.measurement.verdict import Finding, Verdict
from ttt_mlflow.models import registry
from ttt_mlflow.models.entry import ModelEntry, ModelRequest
from ttt_mlflow.models.registry import models, register_model
from ttt_mlflow.models.transformer.sizes import SIZES
from ttt_mlflow.models.transformer.work import decode_stages
from ttt_mlflow.profilers import torch_profiler
from ttt_mlflow.run import lifecycle, model_run
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.telemetry import sampler as telemetry_sampler
from ttt_mlflow.telemetry.clock import SteadyClock
from ttt_mlflow.telemetry.sampler import NvmlSampler

TINY = {"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "promptlen": 3, "genlen": 5, "warmup": 1, "repeats": 3}
TOY = {**TINY, "model_name": "toy", "promptlen": 1, "genlen": 4, "warmup": 0}
WARM_UP_STEPS = 3  # of the decoder, while it is made ready
WORK = {"model_parameters", "min_bytes_per_step", "flops_per_step"}  # of a model that says what it is made of
EVERY_RUN = {"imports_s", "setup_s", "compile_s", "recording_s"}
NUMBERS = {"batch", "promptlen", "genlen"}  # of the parameters
QUALITY = {"relative_half_width_pct", "relative_spread_pct", "warmup_passes", "measured_passes", "drift_pct"}
DECODE = QUALITY | {
    *NUMBERS,
    *("decode_tokens_per_s", "decode_tokens_per_s_ci_low", "decode_tokens_per_s_ci_high"),
    *("decode_step_ms_p50", "decode_step_ms_p90", "decode_step_ms_p99", "decode_step_ms_mean"),
    *("generation_tokens_per_s", "generation_tokens_per_s_ci_low", "generation_tokens_per_s_ci_high"),
    *("prefill_tokens_per_s", "prefill_ms", "time_to_first_token_ms"),
}
PREFILL = QUALITY | {
    *("batch", "promptlen"),
    *("prefill_tokens_per_s", "prefill_tokens_per_s_ci_low", "prefill_tokens_per_s_ci_high"),
    "prefill_ms",
}
NOT_GIVEN = ("attn_impl", "nsys_args", "checkpoint")  # and so absent
PROFILE = {
    *("profiles/torch/trace.json.gz", "profiles/torch/open.html", "profiles/torch/step.json"),
    *("profiles/torch/kernels.csv", "profiles/torch/kernels.md", "profiles/torch/parts.csv"),
    *("profiles/torch/kernels.png", "profiles/torch/timeline.png", "profiles/kernels.json"),
}
ARTIFACTS = {
    *("log.txt", "verdict.json", "timing/steps.csv", "timing/passes.json"),
    *("environment/host.json", "environment/packages.txt"),
}
Measure = Callable[..., Carried]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    return partial(measured_in, tmp_path / "runs")


# What a run leaves behind


@pytest.mark.parametrize("inner_net", ["mlp_1_dual", "mlp_2_dual"])
def test_decode(inner_net: str, measure: Measure) -> None:
    measured = measure({**TINY, "inner_net": inner_net})
    journal, metrics = measured.journal, measured.metrics
    assert measured.failure is None
    assert journal.status["status"] == "ok"
    assert journal.status["exit_code"] == 0
    assert journal.status["message"] is None
    assert journal.status["ended_at"]

    assert set(metrics) == DECODE | EVERY_RUN | WORK | {"warmup_s"}
    assert set(metrics) <= METRIC_NAMES
    assert all(value > 0 for name, value in metrics.items() if name != "drift_pct")
    assert metrics["imports_s"] == 1.5
    low, high = metrics["decode_tokens_per_s_ci_low"], metrics["decode_tokens_per_s_ci_high"]
    assert low <= metrics["decode_tokens_per_s"] <= high
    assert metrics["prefill_ms"] <= metrics["time_to_first_token_ms"]

    assert measured.artifacts == ARTIFACTS | {"roofline/parts.csv"}
    assert measured.artifacts <= ARTIFACT_PATHS
    assert set(journal.series) == {"pass_tokens_per_s"}
    assert (metrics["batch"], metrics["promptlen"], metrics["genlen"]) == (2, 3, 5)
    assert journal.run_name == f"ttt-tiny {inner_net} b2 p3 g5 cpu"
    assert journal.run_name in journal.description
    assert json.loads((journal.artifacts / "environment/host.json").read_text())["torch"] == torch.__version__


def about(rate: float, of: str, measured: Carried) -> Any:
    """``rate``, as far as the record's rounding leaves it: two digits beyond the half-width of its interval."""
    low, high = (measured.metrics[f"{of}_tokens_per_s_ci_{end}"] for end in ("low", "high"))
    return pytest.approx(rate, abs=(high - low) / 200)


def test_the_throughput_is_that_of_the_recorded_steps(measure: Measure) -> None:
    measured = measure(TINY)
    steps = measured.steps
    assert len(steps) == 3 * 5
    assert steps["repeat"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert steps["step"].tolist() == [0, 1, 2, 3, 4] * 3
    assert steps["complete"].all()
    decode_ms = steps.groupby("repeat")["ms"].sum()
    rates = 1e3 * 2 * 5 / decode_ms
    assert measured.metrics["decode_tokens_per_s"] == about(rates.median(), "decode", measured)
    points = measured.journal.series["pass_tokens_per_s"]
    assert [(step, value) for _, step, value in points] == [(n, pytest.approx(rate)) for n, rate in enumerate(rates, 1)]
    assert measured.metrics["decode_step_ms_p50"] == pytest.approx(steps["ms"].median(), rel=1e-5)
    passes = measured.passes
    assert (passes["warmup_passes"], passes["repeats"], passes["stop_reason"]) == (1, 3, "count")
    assert len(passes["prefill_ms"]) == len(passes["time_to_first_token_ms"]) == 4
    prefill_ms = pd.Series(passes["prefill_ms"][1:])
    assert measured.metrics["prefill_ms"] == pytest.approx(prefill_ms.median(), rel=1e-5)
    assert measured.metrics["prefill_tokens_per_s"] == pytest.approx(1e3 * 2 * 3 / prefill_ms.median(), rel=1e-5)
    both = 1e3 * 2 * (1 + 5) / (prefill_ms + decode_ms)
    assert measured.metrics["generation_tokens_per_s"] == about(both.median(), "generation", measured)


def test_prefill(measure: Measure) -> None:
    measured = measure({**TINY, "mode": "prefill", "promptlen": 20})
    metrics = measured.metrics
    assert measured.failure is None
    assert set(metrics) == PREFILL | EVERY_RUN | WORK | {"warmup_s"}
    assert metrics["prefill_tokens_per_s"] == about(1e3 * 2 * 20 / metrics["prefill_ms"], "prefill", measured)
    assert measured.artifacts == ARTIFACTS | {"roofline/parts.csv"}
    assert measured.steps["step"].tolist() == [0, 0, 0]
    assert measured.journal.run_name == "ttt-tiny mlp_1_dual b2 prefill p20 cpu"


def test_parameters_tags_and_configuration(measure: Measure) -> None:
    asked = RunConfig.parse({**TINY, "dtype": "float32", "seed": 7})
    journal = measure({**TINY, "dtype": "float32", "seed": 7}).journal
    used = make_plan(asked).used
    assert journal.config == {
        "entry_point": "main",
        "asked": asked.model_dump(mode="json"),
        "used": used.model_dump(mode="json"),
    }
    assert journal.config["asked"]["inner_net"] is None
    given = {name: text for name, text in used.as_params().items() if name not in NOT_GIVEN}
    assert journal.params == given
    assert {*journal.params, *NOT_GIVEN} == set(RunConfig.model_fields)
    assert journal.params["inner_net"] == "mlp_1_dual"
    assert set(journal.tags) <= {tag.name for tag in names.TAGS}
    assert journal.tags["ttt.status"] == "ok"
    assert journal.tags["ttt.config_id"] == used.config_id()
    assert journal.tags["ttt.journal_id"] == journal.journal_id
    assert journal.tags["ttt.kind"] == "decode"
    assert journal.tags["ttt.method"] == str(METHOD)
    assert journal.tags["ttt.torch"] == torch.__version__
    assert not {"ttt.gpu_name", "ttt.gpu_uuid", "ttt.message"} & set(journal.tags)
    assert journal.tags["ttt.warmup_stop_reason"] == journal.tags["ttt.stop_reason"] == "count"


def test_a_run_that_is_left_to_itself_says_why_it_ended(measure: Measure) -> None:
    """Passes of 48 steps, so that the drift inside them is tested too; 50 %, so that the interval ends the run."""
    left = {name: value for name, value in TINY.items() if name not in ("warmup", "repeats")}
    measured = measure({**left, "genlen": 48, "precision_pct": 50, "max_seconds": 60})
    journal, metrics, passes = measured.journal, measured.metrics, measured.passes
    assert journal.tags["ttt.stop_reason"] == passes["stop_reason"] == "interval"
    assert journal.tags["ttt.warmup_stop_reason"] == passes["warmup_stop_reason"]
    assert metrics["warmup_passes"] == len(passes["warmup_total_ms"]) >= 3
    assert metrics["measured_passes"] == len(passes["repeat_total_ms"]) >= 6
    assert metrics["relative_half_width_pct"] < 50
    for name in ("drift", "drift_within_pass"):
        assert metrics[f"{name}_pct"] == pytest.approx(passes["drift"][name]["pct"], rel=1e-5)
        assert metrics[f"{name}_p_value"] == pytest.approx(passes["drift"][name]["p_value"], rel=1e-5)
    assert "| passes | " in journal.description
    assert "| drift | " in journal.description
    assert f"warm-up ended ({passes['warmup_stop_reason']}), passes: " in measured.log
    assert "timed passes ended (interval), passes: " in measured.log


def test_the_sampler_is_asked_for_the_clocks_of_the_warm_up(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID, hz=100))
    measured = measure({**TINY, "warmup": "auto", "max_seconds": 10})
    assert measured.failure is None
    assert measured.passes["warmup_watched_clocks"] is True
    assert measured.metrics["warmup_s"] >= 0.05  # as many clock samples as it takes


def test_the_log_and_the_terminal_tell_the_story(measure: Measure) -> None:
    measured = measure(TINY)
    for text in (
        "measuring ttt-tiny mlp_1_dual b2 p3 g5 cpu with {'model_name': 'ttt-tiny'",
        "Note: inner_net: Triton needs a GPU; mlp_1_dual (PyTorch) is used",
        "Note: cuda_graph: off; there are no CUDA graphs on a CPU",
        "building ttt-tiny: ",
        "warm-up pass 1",
        "timed pass 3",
    ):
        assert text in measured.log
    assert "building ttt-tiny: " in measured.output
    assert "compiling and preparing the decode step: " in measured.output


def test_torch_profile(measure: Measure) -> None:
    measured = measure({**TINY, "profile": "torch"})
    assert measured.failure is None
    assert measured.artifacts == ARTIFACTS | {"roofline/parts.csv"} | PROFILE
    assert measured.artifacts <= ARTIFACT_PATHS
    part_metrics = {name for name in measured.metrics if name.startswith("part_us/")}
    assert set(measured.metrics) - part_metrics == DECODE | EVERY_RUN | WORK | {"warmup_s", "profile_s"}
    table = json.loads((measured.journal.artifacts / "profiles/kernels.json").read_text())
    assert table["columns"] == ["kernel", "us_per_step", "share_pct", "calls", "part"]
    frame = pd.DataFrame(table["data"], columns=table["columns"])
    assert frame["share_pct"].sum() == pytest.approx(100, rel=1e-3)
    assert "part_us/inner_net_state" in part_metrics
    by_part = {names.PART_US.of(str(part)).name: us for part, us in frame.groupby("part")["us_per_step"].sum().items()}
    assert {name: measured.metrics[name] for name in part_metrics} == pytest.approx(by_part, rel=1e-3)
    assert len(measured.steps) == 3 * 5, "a profiled step is no measured one"
    kernels = pd.read_csv(measured.journal.artifacts / "profiles/torch/kernels.csv")
    assert any("mm" in name for name in kernels["name"])


def test_torch_profile_of_a_prompt(measure: Measure) -> None:
    measured = measure({**TINY, "mode": "prefill", "promptlen": 16, "profile": "torch"})
    assert measured.failure is None
    assert measured.artifacts >= PROFILE


# A model that does as it is told


class Toy:
    """Decodes what nobody reads; every step is noted and may be the last."""

    vocab_size = 1000

    def __init__(self, on_step: Callable[[int, Tensor], object]) -> None:
        self.steps = 0
        self.on_step = on_step

    def new_state(self, batch: int) -> Tensor:
        return torch.zeros(batch)

    def reset_state(self, state: Tensor) -> None:
        state.zero_()

    def step(self, tokens: Tensor, state: Tensor) -> Tensor:
        self.steps += 1
        self.on_step(self.steps, tokens)
        return torch.zeros(len(tokens), self.vocab_size)


@dataclass
class Register:
    """Registers a toy and remembers, without holding it, what was built; what else is given its entry says of it."""

    built: list[weakref.ref[Toy]] = field(default_factory=list)

    def __call__(self, on_step: Callable[[int, Tensor], object] = lambda step, tokens: None, **says: Any) -> None:
        def build(request: ModelRequest) -> Toy:
            toy = Toy(on_step)
            self.built.append(weakref.ref(toy))
            return toy

        register_model(ModelEntry("toy", build, "does as it is told", **says))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    monkeypatch.setattr(registry, "_registered", models())
    return Register()


def raising(kind: type[BaseException], *arguments: object, at: int) -> Callable[[int, Tensor], None]:
    """Raise in the step ``at``, of all that the model takes."""

    def on_step(step: int, tokens: Tensor) -> None:
        if step == at:
            raise kind(*arguments)

    return on_step


def step_of_pass(number: int, step: int) -> int:
    """Of all the toy's steps, the ``step``-th decode step of the ``number``-th pass, both from 1, with TOY."""
    ready = WARM_UP_STEPS + 1  # and the prompt's token
    return ready + (number - 1) * (1 + 4) + 1 + step


def test_a_model_with_no_more_than_the_protocol(register: Register, measure: Measure) -> None:
    register()
    measured = measure(TOY)
    assert measured.failure is None
    assert set(measured.metrics) == DECODE | EVERY_RUN  # no warm-up, and it does not say how large it is
    assert measured.journal.run_name == "toy b2 g4 cpu"
    assert "inner_net" not in measured.journal.params


@pytest.mark.parametrize(
    ("asked", "recorded"),
    [
        ({}, "flash+math"),
        ({"promptlen": 1}, "math"),
        ({"mode": "prefill"}, "flash"),
        ({"attn_impl": "math"}, "math+math"),
    ],
    ids=str,
)
def test_the_attention_in_use_is_recorded(asked: dict[str, Any], recorded: str, measure: Measure) -> None:
    """Also where it was chosen; the configuration's id is that of what was asked for."""
    measured = measure({**TINY, "model_name": "transformer-tiny", **asked})
    assert measured.failure is None, measured.log
    assert measured.journal.params["attn_impl"] == recorded
    assert f"attention {recorded}" in measured.journal.description
    used = RunConfig.parse(measured.journal.config["used"])
    assert used.attn_impl == asked.get("attn_impl")
    assert measured.journal.tags["ttt.config_id"] == used.config_id()
    assert "drift_within_pass_pct" not in measured.metrics, "later steps cost more"


def test_the_roofline_is_that_of_the_mean_position(measure: Measure) -> None:
    measured = measure({**TINY, "model_name": "transformer-tiny", "genlen": 9})
    config = SIZES["transformer-tiny"]
    expected = decode_stages(config, torch.float32, batch=2, position=3 + 4)
    assert measured.metrics["min_bytes_per_step"] == sum(stage.bytes for stage in expected)


@pytest.mark.parametrize(("says", "tested"), [({}, True), ({"period": 24}, False), ({"cost_grows": True}, False)])
def test_a_model_says_whether_its_steps_can_drift_within_a_pass(
    says: dict[str, Any], tested: bool, register: Register, measure: Measure
) -> None:
    """Passes of 48 steps: a third has no whole period of 24, and steps that cost more and more do not drift."""
    register(**says)
    measured = measure({**TOY, "genlen": 48, "repeats": 4})
    assert measured.failure is None
    assert "drift_pct" in measured.metrics
    assert ("drift_within_pass_pct" in measured.metrics) == tested
    assert ("drift_within_pass" in measured.passes["drift"]) == tested
    assert ("within a pass" in measured.journal.description) == tested


@pytest.mark.parametrize(("period", "timed", "warmup"), [(1, 16, 128), (16, 16, 128), (24, 24, 144)])
def test_a_warm_up_pass_is_of_whole_periods(
    period: int, timed: int, warmup: int, register: Register, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_run, "WARMUP_PASS_MS", 1e9)  # whatever a step takes here
    steps: list[int] = []
    register(lambda step, tokens: steps.append(step), period=period)
    measure({**TOY, "genlen": 200, "warmup": 1, "repeats": 1})
    ready, prompt = WARM_UP_STEPS + 1, 1
    assert len(steps) == ready + timed + prompt + warmup + prompt + 200


def test_the_tokens_of_a_pass_are_recorded(register: Register, measure: Measure) -> None:
    register()
    decoded = measure({**TOY, "batch": 3, "promptlen": 2})
    assert decoded.passes["tokens_per_pass"] == 3 * 4
    prompts = measure({**TOY, "batch": 3, "promptlen": 2, "mode": "prefill"})
    assert prompts.passes["tokens_per_pass"] == 3 * 2


def test_the_prompt_is_that_of_the_seed(register: Register, measure: Measure) -> None:
    seen: list[list[int]] = []
    register(lambda step, tokens: seen.append(tokens.tolist()))
    prompts = []
    for seed in (0, 0, 1):
        seen.clear()
        measure({**TOY, "batch": 8, "repeats": 1, "seed": seed})
        prompts.append(seen[WARM_UP_STEPS])
        assert seen[WARM_UP_STEPS + 1] == prompts[-1], "every pass begins with the prompt"
    assert prompts[0] == prompts[1] != prompts[2]
    assert len(set(prompts[0])) > 4


def test_nothing_is_shown_or_written_while_a_pass_is_timed(
    register: Register, measure: Measure, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    noted: list[tuple[int, int]] = []  # characters on the terminal and bytes on the disk, at each step

    def note(step: int, tokens: Tensor) -> None:
        files = [path.stat() for path in tmp_path.rglob("*") if path.is_file()]
        noted.append((console.file.tell(), sum(file.st_size for file in files)))

    register(note)
    measure(TOY, console)
    first = [step_of_pass(number, 1) - 1 for number in (1, 2, 3)]
    assert all(len(set(noted[begin : begin + 4])) == 1 for begin in first)
    assert noted[first[0]] != noted[first[1]] != noted[first[2]], "between the passes it is"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_the_finished_steps(signum: signal.Signals, register: Register, measure: Measure) -> None:
    register(raising(Killed, signum, at=step_of_pass(3, 3)))
    measured = measure({**TOY, "repeats": 1000})
    status = measured.journal.status
    assert isinstance(measured.failure, Killed)
    assert (status["status"], status["exit_code"]) == ("killed", 128 + signum)
    assert status["message"] == f"stopped by {signum.name}"
    assert measured.journal.tags["ttt.status"] == "killed"
    assert measured.journal.tags["ttt.message"] == f"stopped by {signum.name}"

    steps = measured.steps
    assert steps["repeat"].tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert steps["complete"].tolist() == [True] * 8 + [False] * 2
    rates = 1e3 * 2 * 4 / steps[steps["complete"]].groupby("repeat")["ms"].sum()
    assert measured.metrics["decode_tokens_per_s"] == about(rates.median(), "decode", measured)
    assert measured.passes["interrupted"] is True
    assert measured.artifacts == ARTIFACTS
    assert "killed" in measured.journal.description


class Dropped:
    """A signal arrives while it is destroyed: Python drops what the signal's handler raises there."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_in_a_destructor_ends_the_run_with_its_pass(register: Register, measure: Measure) -> None:
    def drop(step: int, tokens: Tensor) -> None:
        if step == step_of_pass(2, 2):
            Dropped()

    register(drop)
    with SignalHandler():
        measured = measure({**TOY, "repeats": 20})
    assert isinstance(measured.failure, Killed)
    assert measured.journal.status["status"] == "killed"
    assert measured.steps["repeat"].max() == 1, "the pass in which it came is the last"
    end_if_asked()  # the next run is not asked


def test_an_interruption_before_anything_is_timed(register: Register, measure: Measure) -> None:
    register(raising(Killed, signal.SIGTERM, at=2))
    measured = measure(TOY)
    assert measured.journal.status["status"] == "killed"
    assert set(measured.metrics) - NUMBERS == {"imports_s", "setup_s", "recording_s"}
    assert measured.artifacts == ARTIFACTS - {"timing/steps.csv"}


def test_an_interrupted_warm_up_is_no_measurement(register: Register, measure: Measure) -> None:
    register(raising(Killed, signal.SIGTERM, at=step_of_pass(2, 3)))
    measured = measure({**TOY, "warmup": 2})
    assert measured.journal.status["status"] == "killed"
    assert set(measured.metrics) - NUMBERS == EVERY_RUN | {"warmup_s"}
    assert measured.passes["warmup_passes"] == 1
    assert measured.artifacts == ARTIFACTS - {"timing/steps.csv"}


def test_a_pass_that_is_cut_short_at_its_first_step(register: Register, measure: Measure) -> None:
    """Its prompt was processed, and nothing else is known of it."""
    register(raising(Killed, signal.SIGTERM, at=step_of_pass(3, 1)))
    measured = measure(TOY)
    assert set(measured.metrics) == DECODE | EVERY_RUN
    assert measured.steps["repeat"].tolist() == [0] * 4 + [1] * 4
    prefill_ms = pd.Series(measured.passes["prefill_ms"][:2])
    assert measured.metrics["prefill_ms"] == pytest.approx(prefill_ms.median(), rel=1e-5)


CUDA_MESSAGE = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 139.80 GiB"


def test_out_of_memory_of_the_device(register: Register, measure: Measure) -> None:
    register(raising(torch.OutOfMemoryError, CUDA_MESSAGE, at=step_of_pass(2, 1)))
    measured = measure({**TOY, "batch": 3})
    message = "out of memory: toy b3 g4 cpu does not fit; 2.50 GiB more was requested"
    assert type(measured.failure) is OutOfMemory
    assert str(measured.failure) == message
    status = measured.journal.status
    assert (status["status"], status["message"], status["exit_code"]) == ("oom", message, 3)
    assert measured.journal.tags["ttt.status"] == "oom"
    assert measured.journal.tags["ttt.message"] == message
    assert len(measured.steps) == 4, "the pass before it is kept"
    assert message in measured.journal.description
    assert "torch.OutOfMemoryError: CUDA out of memory" in measured.log


def test_out_of_memory_of_the_host(register: Register, measure: Measure) -> None:
    """What PyTorch's allocator on a CPU says, as it says it."""
    register(lambda step, tokens: torch.empty(1 << 60, dtype=torch.uint8))
    measured = measure(TOY)
    assert measured.journal.status["status"] == "oom"
    assert str(measured.failure) == ("out of memory: toy b2 g4 cpu does not fit; 1152921504.61 GB more was requested")


def test_out_of_memory_while_building(monkeypatch: pytest.MonkeyPatch, measure: Measure) -> None:
    def build(request: ModelRequest) -> Toy:
        raise torch.OutOfMemoryError(CUDA_MESSAGE)

    monkeypatch.setattr(registry, "_registered", models())
    register_model(ModelEntry("toy", build, "too large"))
    measured = measure(TOY)
    assert measured.journal.status["status"] == "oom"
    assert set(measured.metrics) - NUMBERS == {"imports_s", "recording_s"}


def test_an_error(register: Register, measure: Measure) -> None:
    register(raising(ValueError, "no such\n  thing", at=step_of_pass(2, 2)))
    measured = measure(TOY)
    assert type(measured.failure) is RunFailed
    assert str(measured.failure) == "ValueError: no such thing"
    status = measured.journal.status
    assert (status["status"], status["message"], status["exit_code"]) == ("error", "ValueError: no such thing", 1)
    assert measured.journal.tags["ttt.status"] == "error"
    assert len(measured.steps) == 4 + 1
    assert "Traceback (most recent call last)" in measured.log
    assert "in on_step" in measured.log
    assert "Traceback" not in measured.output


def test_a_signal_while_a_failure_is_recorded(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, register: Register
) -> None:
    """Otherwise the record would say that the run is still going on."""
    ends = a_signal_at_the_first_end(monkeypatch)
    register(raising(ValueError, "no such thing", at=step_of_pass(2, 2)))
    measured = measure(TOY)
    assert ends == ["error", "killed"]
    assert isinstance(measured.failure, Killed)
    assert (measured.journal.status["status"], measured.journal.status["message"]) == ("killed", "stopped by SIGINT")


def test_an_expected_failure_is_told_in_its_own_words(register: Register, measure: Measure) -> None:
    register(raising(RunFailed, "the toy is broken; buy another one", at=1))
    measured = measure(TOY)
    assert type(measured.failure) is RunFailed
    assert measured.journal.status["message"] == str(measured.failure) == "the toy is broken; buy another one"


def test_a_profile_that_fails_keeps_the_measurement(
    register: Register, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(*arguments: object) -> None:
        raise RunFailed("profile=torch: another profiler holds the GPU")

    monkeypatch.setattr(torch_profiler, "record", record)
    register()
    measured = measure({**TOY, "profile": "torch"})
    message = "profile=torch: another profiler holds the GPU; the measurement before it is complete"
    assert type(measured.failure) is RunFailed
    assert measured.journal.status["status"] == "error"
    assert measured.journal.status["message"] == str(measured.failure) == message
    assert set(measured.metrics) == DECODE | EVERY_RUN | {"profile_s"}
    assert len(measured.steps) == 3 * 4
    assert measured.artifacts == ARTIFACTS


def test_an_interrupted_profile_keeps_the_measurement(register: Register, measure: Measure) -> None:
    register(raising(Killed, signal.SIGINT, at=step_of_pass(4, 2)))
    measured = measure({**TOY, "profile": "torch"})
    status = measured.journal.status
    assert isinstance(measured.failure, Killed)
    assert (status["status"], status["exit_code"]) == ("killed", 130)
    assert status["message"] == "stopped by SIGINT during profile=torch, after a complete measurement"
    assert set(measured.metrics) == DECODE | EVERY_RUN
    assert len(measured.steps) == 3 * 4
    assert measured.artifacts == ARTIFACTS


@pytest.mark.parametrize(
    ("kind", "profile"),
    [(None, "none"), (None, "torch"), *((kind, "none") for kind in (torch.OutOfMemoryError, ValueError, RunFailed))],
)
def test_nothing_holds_the_model_after_a_run(
    kind: type[Exception] | None, profile: str, register: Register, measure: Measure
) -> None:
    """Neither what is raised, nor a handler that keeps log records, nor a profiler; and without waiting until the
    garbage collector thinks it is time."""
    if kind is None:
        register()
    else:
        register(raising(kind, "no", at=step_of_pass(2, 2)))
    gc.disable()
    try:
        measured = measure({**TOY, "profile": profile})
        (toy,) = register.built
        assert (measured.failure is None) == (kind is None)
        assert toy() is None
    finally:
        gc.enable()


def test_the_log_ends_with_the_run(register: Register, measure: Measure) -> None:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger("ttt_mlflow").level

    def warn(step: int, tokens: Tensor) -> None:
        if step == 1:
            warnings.warn("the toy squeaks", stacklevel=1)

    register(warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        measured = measure(TOY)
    logging.getLogger("ttt_mlflow.run.model_run").warning("after the run")
    assert "the toy squeaks" in measured.log
    assert "after the run" not in measured.log
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("ttt_mlflow").level == level


# The verdict, and measuring again


def judged(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> None:
    """One verdict an attempt, as a GPU would have given them."""
    monkeypatch.setattr(model_run.ModelRun, "_judge", lambda run: verdicts[len(run.discarded)])


DISTURBED = Verdict("invalid", (Finding("other_process", "python (pid 7) used 40 % of the SMs"),))
TOO_SHORT = Verdict("invalid", (Finding("short_section", "0.1 s measured"),))
VALID = Verdict("valid")


@pytest.mark.parametrize(("drift_pct", "missing"), [("0", "drift,gpu_telemetry"), ("1e9", "gpu_telemetry")])
def test_a_cpu_run_is_judged_as_far_as_it_can_be(drift_pct: str, missing: str, measure: Measure) -> None:
    """Three passes: whether they differ by more than the threshold is known, but not whether that is noise."""
    limits = (f"drift_pct={drift_pct}", "half_width_pct=1e9", "section_s=0")
    measured = measure({**TINY, "thresholds": ",".join(limits), "retry_invalid": 3})
    assert measured.journal.tags["ttt.verdict"] == "unjudged"
    assert measured.journal.tags["ttt.missing"] == missing
    assert "ttt.reasons" not in measured.journal.tags
    record = json.loads((measured.journal.artifacts / "verdict.json").read_text())
    assert record["verdict"] == "unjudged"
    assert record["thresholds"] == Thresholds.parse(limits).as_dict()
    assert measured.journal.params["thresholds"] == ",".join(limits)
    assert measured.metrics["attempts"] == 1


def test_a_short_cpu_run_says_what_is_wrong_with_it(measure: Measure) -> None:
    measured = measure({**TINY, "thresholds": "section_s=100"})
    assert measured.journal.tags["ttt.verdict"] == "invalid"
    assert "short_section" in measured.journal.tags["ttt.reasons"]
    assert "gpu_telemetry" in measured.journal.tags["ttt.missing"]


def test_an_invalid_measurement_is_made_again_and_its_data_kept(
    register: Register, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, DISTURBED, DISTURBED, VALID)
    register()
    measured = measure({**TOY, "retry_invalid": 5})
    assert len(register.built) == 1, "the built model is measured again"
    assert measured.journal.tags["ttt.verdict"] == "valid"
    assert measured.metrics["attempts"] == 3
    assert len(measured.steps) == 3 * 4
    assert measured.metrics["measured_passes"] == 3

    kept = json.loads((measured.journal.artifacts / "timing/discarded.json").read_text())
    assert [(attempt["attempt"], attempt["verdict"]) for attempt in kept] == [(1, "invalid"), (2, "invalid")]
    assert all(len(attempt["passes"]["repeat_total_ms"]) == 3 for attempt in kept)
    steps = pd.read_csv(measured.journal.artifacts / "timing/discarded-steps.csv")
    assert steps["attempt"].tolist() == [1] * 12 + [2] * 12
    points = measured.journal.series["discarded_tokens_per_s"]
    medians = [sorted(attempt["passes"]["repeat_total_ms"])[1] for attempt in kept]
    assert [(step, value) for _, step, value in points] == [
        (attempt, pytest.approx(1e3 * 2 * 4 / ms)) for attempt, ms in enumerate(medians, 1)
    ]
    assert len(measured.journal.series["pass_tokens_per_s"]) == 3
    assert measured.artifacts <= ARTIFACT_PATHS
    assert "Attempt 2 is measured again. invalid: other_process (python (pid 7) used 40 % of the SMs)" in measured.log


@pytest.mark.parametrize(
    ("asked", "verdict", "attempts"),
    [({}, DISTURBED, None), ({"retry_invalid": 2}, DISTURBED, 3), ({"retry_invalid": 2}, TOO_SHORT, 1)],
)
def test_a_measurement_that_stays_invalid_is_kept_as_that(
    asked: dict[str, int],
    verdict: Verdict,
    attempts: int | None,
    register: Register,
    measure: Measure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged(monkeypatch, *[verdict] * 3)
    register()
    measured = measure({**TOY, **asked})
    assert measured.failure is None
    assert measured.metrics.get("attempts") == attempts
    assert measured.journal.tags["ttt.verdict"] == "invalid"
    assert measured.journal.tags["ttt.reasons"] == verdict.names[0]
    assert len(measured.steps) == 3 * 4
    assert ("would be the same" in measured.log) == (verdict is TOO_SHORT)


def test_the_card_is_waited_for_before_the_next_attempt(
    register: Register, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for NVML; what the waiting itself does is tested where it is."""
    waited: list[int] = []

    def wait(samples: list[dict[str, float]], tell: Callable[[str], object], now_ns: object) -> list[str]:
        waited.append(len(samples))
        tell("another process uses the GPU (30 %), for 1 s")
        return ["another process uses the GPU (30 %)"]

    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID, hz=500))
    monkeypatch.setattr(model_run, "wait_until_quiet", wait)
    judged(monkeypatch, DISTURBED, VALID)
    register(lambda step, tokens: time.sleep(0.002))
    measured = measure({**TOY, "retry_invalid": 1})
    assert len(waited) == 1
    assert waited[0] > 0
    assert "waiting: another process uses the GPU (30 %), for 1 s" in measured.log
    assert "The GPU did not become quiet: another process uses the GPU (30 %). The run measures anyway." in measured.log
    frame = pd.read_csv(measured.journal.artifacts / "telemetry/samples.csv")
    assert frame["measured"].sum() < len(frame) / 2, "the sections of the first attempt do not count"


def test_an_interruption_while_it_waits_keeps_the_first_attempt(
    register: Register, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(samples: list[dict[str, float]], tell: Callable[[str], object], now_ns: object) -> list[str]:
        raise Killed(signal.SIGTERM)

    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID, hz=500))
    monkeypatch.setattr(model_run, "wait_until_quiet", interrupted)
    judged(monkeypatch, DISTURBED, VALID)
    register()
    measured = measure({**TOY, "retry_invalid": 1})
    assert measured.journal.status["status"] == "killed"
    kept = json.loads((measured.journal.artifacts / "timing/discarded.json").read_text())
    assert len(kept[0]["passes"]["repeat_total_ms"]) == 3


# Telemetry, from a stand-in for NVML


def test_telemetry_lands_in_the_journal(register: Register, measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()

    def wait_for_a_sample(step: int, tokens: Tensor) -> None:
        """Let a sample be taken from beginning to end within this step."""
        nvml.wait_for_samples(2)

    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID, hz=500))
    register(wait_for_a_sample)
    measured = measure(TOY)
    assert measured.failure is None
    metrics = measured.metrics
    assert set(metrics) <= METRIC_NAMES
    assert metrics["sm_clock_mhz_mean"] == metrics["sm_clock_mhz_min"] == metrics["sm_clock_mhz_max"] == 1980
    assert metrics["memory_clock_mhz_mean"] == 3201
    assert metrics["power_w_mean"] == pytest.approx(630.25)
    assert metrics["temperature_c_max"] == 41
    assert metrics["gpu_utilization_pct_mean"] == 97
    assert metrics["device_memory_used_gb"] == pytest.approx(20)
    assert metrics["clock_event_sw_power_cap_pct"] == 100
    assert "energy_j" not in metrics, "the passes are too short for the energy counter"
    assert "joules_per_token" not in metrics

    assert measured.artifacts == ARTIFACTS | {
        f"telemetry/{name}" for name in ("samples.csv", "queries.csv", "clocks.png")
    }
    samples = pd.read_csv(measured.journal.artifacts / "telemetry/samples.csv")
    assert samples["measured"].sum() >= 3 * 4
    assert not samples["measured"].all()
    assert (measured.journal.artifacts / "telemetry/clocks.png").read_bytes().startswith(b"\x89PNG")
    expected = {metric.of(0).name for metric in names.SYSTEM_METRICS}
    # GPM has no reading before 110 ms, and the run may be over by then
    assert (
        expected - {names.SYSTEM_DRAM_BANDWIDTH.of(0).name}
        <= set(measured.journal.series) - {"pass_tokens_per_s"}
        <= expected
    )
    assert metrics["violation_power_s"] == metrics["ecc_uncorrected_errors"] == 0
    assert nvml.open_count == 0, "NVML was let go of"


def test_who_else_was_on_the_card_is_recorded(
    register: Register, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml()
    nvml.processes.append(process(2**30, 5_000_000_000))
    nvml.refuses["nvmlDeviceGetPowerUsage"] = NOT_SUPPORTED
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID))
    register(lambda step, tokens: None)
    measured = measure(TOY)
    others = pd.read_csv(measured.journal.artifacts / "telemetry/processes.csv")
    assert others[["pid", "memory_bytes"]].values.tolist() == [[2**30, 5_000_000_000]]
    assert "NVML does not answer power: Not Supported" in measured.log
    queries = pd.read_csv(measured.journal.artifacts / "telemetry/queries.csv").set_index("query")
    assert queries.loc["power", "refused"] == "Not Supported"
    assert queries.loc["energy", "calls"] == 2 * 3, "at both ends of each pass"
    facts = json.loads((measured.journal.artifacts / "environment/host.json").read_text())
    assert facts["cpu_load_1min_end"] >= 0
    assert measured.artifacts <= ARTIFACT_PATHS


def test_which_other_gpus_were_busy_is_recorded(
    register: Register, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml()
    nvml.uuids = [GPU_UUID, OTHER_UUID]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(telemetry_sampler, "LOOKS_PER_SECOND", 500.0)
    monkeypatch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID, hz=500))
    register(lambda step, tokens: nvml.wait_for_samples(3))
    measured = measure(TOY)
    assert (measured.metrics["neighbor_gpus_busy"], measured.metrics["neighbor_power_w"]) == (1, 500)
    others = pd.read_csv(measured.journal.artifacts / "telemetry/neighbors.csv")
    assert others[["gpu", "uuid", "busy_pct"]].values.tolist() == [[1, OTHER_UUID, 100.0]]
    assert measured.artifacts <= ARTIFACT_PATHS


def test_joules_per_token(register: Register, measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Energy of the passes over the tokens generated in them."""
    nvml = FakeNvml()
    clock = [time.time_ns()]

    def work(step: int, tokens: Tensor) -> None:
        """A second and 500 J each; the sampler's clock does as it is told."""
        clock[0] += 1_000_000_000
        nvml.energy_mj += 500_000

    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID))
    monkeypatch.setattr(SteadyClock, "now_ns", lambda self: clock[0])
    register(work)
    metrics = measure(TOY).metrics
    assert metrics["energy_j"] == pytest.approx(3 * 4 * 500)
    assert metrics["joules_per_token"] == pytest.approx(500 / 2)

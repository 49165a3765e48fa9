"""Whole micro-benchmarks on the CPU, and what the journal holds after each way in which one can end."""

import errno
import gc
import io
import json
import signal
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.catalog import ARTIFACT_PATHS, KERNEL_METRIC_NAMES
from tests.micro.cases import entry, linear
from tests.micro.test_check import too_large, unwritten
from tests.profilers.fake_nsys import FakeNsys
from tests.runs import Carried, a_signal_at_the_first_end, carried_out
from tests.telemetry.fake_nvml import GPU_UUID, FakeNvml
from ttt_mlflow import names
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.errors import Killed, OutOfMemory, RunFailed
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_prefill
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.verdict import judge_section
from ttt_mlflow.micro import micro_run
from ttt_mlflow.micro.plan import make_plan
from ttt_mlflow.micro.registry import KernelEntry, Step
from ttt_mlflow.profilers.nsys import Nsys
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.micro_results import MicroResults
from ttt_mlflow.record.room import FOLDER
from ttt_mlflow.run import lifecycle
from ttt_mlflow.run.attempt import COMPLETE
from ttt_mlflow.telemetry.sampler import NvmlSampler

QUICK = {"device": "cpu", "heads": 2, "head_dim": 16, "batches": "1,3", "seconds": 0.001}
TIMED = ("kernel_us", "kernel_us_p20", "kernel_us_p80", "kernel_tokens_per_s", "kernel_gb_per_s", "kernel_tflops")
KERNEL_RATES = (
    *(names.KERNEL_TOKENS_PER_S, names.KERNEL_GB_PER_S, names.KERNEL_READ_CEILING_PCT),
    *(names.KERNEL_TFLOPS, names.KERNEL_MATRIX_CEILING_PCT, names.KERNEL_ROOFLINE_PCT),
)
EVERY_RUN = {"log.txt", "verdict.json", "environment/host.json", "environment/packages.txt", "micro/samples.json"}
VIEWS = {"micro/table.csv", "micro/table.md", "micro/kernels.png", "micro/kernels.html"}
CUDA_MESSAGE = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 139.80 GiB"


class CarriedMicro(Carried):
    """One micro-benchmark and what it said."""

    @property
    def results(self) -> MicroResults:
        return MicroResults.read(self.journal.artifacts / "micro/samples.json")

    @property
    def status(self) -> dict[str, Any]:
        return self.journal.status

    def batches(self, metric: str, kernel: str) -> list[int]:
        """The steps of a kernel's series."""
        return [step for _, step, _ in self.journal.series.get(f"{metric}/{kernel}", [])]


def measured_in(logdir: Path, *entries: KernelEntry, nsys: FakeNsys | None = None, **asked: Any) -> CarriedMicro:
    """Measure as the command line does; ``entries`` stand in place of registered kernels."""
    # of kernels that need a GPU, which entries stand for: the registered ones of a CPU do not have them
    sizes: dict[str, Any] = {name: asked.pop(name) for name in ("intermediate", "vocab") if entries and name in asked}
    plan = make_plan(MicroConfig.parse({**QUICK, **asked}))
    if entries:
        used = plan.used.model_copy(update={"kernels": tuple(one.name for one in entries), **sizes})
        plan = replace(plan, entries=list(entries), used=used)
    if nsys:
        plan = replace(plan, nsys=nsys.find())
    carried = carried_out(plan, logdir, Console(file=io.StringIO(), width=200))
    return CarriedMicro(carried.journal, carried.output, carried.failure)


Measure = Callable[..., CarriedMicro]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    return partial(measured_in, tmp_path / "runs")


def good(name: str = "good", step: Step = linear_decode) -> KernelEntry:
    return entry(name, lambda: step)


def failing(name: str, error: BaseException, at_batch: int) -> KernelEntry:
    """Right, until it is asked for a step of this batch."""

    def fail(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
        if len(out) == at_batch:
            raise error
        return out

    return entry(name, lambda: linear(fail))


# What a run leaves behind


def test_a_run_of_our_own_kernels(measure: Measure) -> None:
    measured = measure(kernels="mlp_1_dual,mlp_2_dual")
    assert measured.failure is None
    assert (measured.status["status"], measured.status["exit_code"]) == ("ok", 0)
    journal = measured.journal
    for kernel in ("mlp_1_dual", "mlp_2_dual"):
        assert 0 < journal.metrics[f"kernel_error/{kernel}"] < 1e-3
        assert journal.metrics[f"kernel_first_use_s/{kernel}"] > 0
        for metric in TIMED:
            assert measured.batches(metric, kernel) == [1, 3]
    metrics = {name.partition("/")[0] for name in (*journal.metrics, *journal.series)}
    assert metrics == {"imports_s", "kernel_error", "kernel_first_use_s", *TIMED}
    assert metrics - {"imports_s"} <= KERNEL_METRIC_NAMES
    assert measured.artifacts == EVERY_RUN | VIEWS
    assert measured.artifacts <= ARTIFACT_PATHS


def test_the_metrics_are_those_of_the_recorded_samples(measure: Measure) -> None:
    measured = measure(kernels="mlp_1_dual")
    for cell in measured.results.cells:
        assert len(cell.us) >= 3
        assert cell.launches == 16
        us = pd.Series(cell.us)
        expected = {"kernel_us": us.median(), "kernel_us_p20": us.quantile(0.2), "kernel_us_p80": us.quantile(0.8)}
        expected["kernel_gb_per_s"] = cell.floor_bytes / us.median() / 1e3
        for metric, value in expected.items():
            rows = measured.journal.series[f"{metric}/mlp_1_dual"]
            assert {step: found for _, step, found in rows}[cell.batch] == pytest.approx(value, rel=1e-5)
    table = pd.read_csv(measured.journal.artifacts / "micro/table.csv")
    assert table["us"].tolist() == pytest.approx([pd.Series(cell.us).median() for cell in measured.results.cells])
    assert table["batch"].tolist() == [1, 3]
    markdown = (measured.journal.artifacts / "micro/table.md").read_text()
    assert markdown in measured.journal.description


def test_prompts_beside_decode_steps(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_card(run: micro_run.MicroRun) -> None:
        run.results.ceilings = {"card_read_gb_per_s": 1.0, "card_copy_gb_per_s": 1.0, "card_matmul_tflops": 0.001}

    monkeypatch.setattr(micro_run.MicroRun, "_measure_gpu", measure_card)
    measured = measure(kernels="mlp_1_dual,mlp_1_prefill,mlp_2_prefill", prompt_batches="2", promptlen=40)
    assert measured.failure is None
    journal, results = measured.journal, measured.results
    for kernel in ("mlp_1_prefill", "mlp_2_prefill"):
        cell = results.cell(kernel, 2)
        assert cell is not None
        assert (cell.promptlen, cell.launches) == (40, 1)
        assert 0 < journal.metrics[f"kernel_error/{kernel}"] < 1e-3
        us = pd.Series(cell.us).median()
        found = {metric: journal.series[f"{metric.name}/{kernel}"][0][1:] for metric in KERNEL_RATES}
        assert {step for step, _ in found.values()} == {2}
        rates = {metric: value for metric, (_, value) in found.items()}
        assert rates[names.KERNEL_TOKENS_PER_S] == pytest.approx(2 * 40 / us * 1e6, rel=1e-5)
        assert rates[names.KERNEL_TFLOPS] == pytest.approx((cell.flops or 0) / us / 1e6, rel=1e-5)
        assert rates[names.KERNEL_MATRIX_CEILING_PCT] == pytest.approx(1e5 * rates[names.KERNEL_TFLOPS], rel=1e-5)
        assert rates[names.KERNEL_ROOFLINE_PCT] == max(
            rates[names.KERNEL_READ_CEILING_PCT], rates[names.KERNEL_MATRIX_CEILING_PCT]
        )
    assert measured.batches("kernel_roofline_pct", "mlp_1_dual") == [1, 3]
    assert (journal.params["batches"], journal.params["prompt_batches"]) == ("1,3", "2")
    assert journal.run_name == "3 kernels b1,3 b2 p40 h2x16 cpu mlp_1_dual,mlp_1_prefill,mlp_2_prefill"
    assert "mlp_1_prefill batch 2 prompt 40: " in measured.log
    assert measured.artifacts == EVERY_RUN | VIEWS
    assert "- fastest linear prefill kernel: mlp_1_prefill batch 2 prompt 40: " in journal.description


def test_a_prompt_that_is_wrong_is_not_timed(measure: Measure) -> None:
    wrong = entry("wrong", lambda: lambda *arguments: too_large(linear_prefill(*arguments), arguments), mode="prefill")
    measured = measure(wrong, good(), prompt_batches="2", kernels="mlp_1_dual,mlp_1_prefill", promptlen=40)
    assert "1 of 3 measurements failed: wrong: not timed: wrong result" in str(measured.failure)
    assert measured.batches("kernel_us", "good") == [1, 3]


def test_parameters_tags_and_configuration(measure: Measure) -> None:
    measured = measure(kernels="mlp_1_dual", seed=7)
    journal = measured.journal
    assert {*journal.params, "nsys_args", "prompt_batches"} == set(MicroConfig.model_fields)
    assert (journal.params["kernels"], journal.params["batches"]) == ("mlp_1_dual", "1,3")
    assert (journal.params["dtype"], journal.params["seed"], journal.params["profile"]) == ("float16", "7", "none")
    assert journal.entry_point == journal.tags["ttt.entry_point"] == "micro"
    assert journal.run_name == "mlp_1_dual b1,3 h2x16 cpu seed 7"
    assert set(journal.tags) <= {tag.name for tag in names.TAGS}
    assert journal.tags["ttt.status"] == "ok"
    assert "ttt.gpu_name" not in journal.tags
    assert json.loads((journal.artifacts / "environment/host.json").read_text())["torch"] == torch.__version__


def test_the_terminal_and_the_log_tell_the_story(measure: Measure) -> None:
    measured = measure(kernels="mlp_1_dual")
    for text in ("mlp_1_dual: first use ", "relative error ", "mlp_1_dual batch 1: ", "mlp_1_dual batch 3: ", "GB/s"):
        assert text in measured.output
        assert text in measured.log
    assert "read ceiling" not in measured.output


# Kernels that are wrong, fail, or do not fit


def test_a_wrong_kernel_is_named_and_not_timed_and_the_others_are(measure: Measure) -> None:
    calls: list[int] = []

    def noted(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
        calls.append(len(out))
        return too_large(out, arguments)

    measured = measure(entry("wrong", lambda: linear(noted)), good())
    assert type(measured.failure) is RunFailed
    message = (
        "not timed: wrong result: relative error 1.0e-02 against float64; float16 allows a relative error of 1e-03"
    )
    assert str(measured.failure) == f"2 of 4 measurements failed: wrong: {message}"
    assert (measured.status["status"], measured.status["exit_code"]) == ("error", 1)
    assert set(calls) == {2}, "the check's batch alone"
    assert measured.journal.metrics["kernel_error/wrong"] == pytest.approx(0.01, rel=0.1)
    assert measured.batches("kernel_us", "wrong") == []
    assert measured.batches("kernel_us", "good") == [1, 3]
    assert message in measured.journal.description
    assert message in measured.output
    assert [cell.status for cell in measured.results.cells] == ["error", "error", "ok", "ok"]


def test_a_result_that_is_no_number_is_no_metric(measure: Measure) -> None:
    measured = measure(entry("unwritten", lambda: linear(unwritten)))
    assert "NaN or infinite numbers against float64" in str(measured.failure)
    assert "kernel_error/unwritten" not in measured.journal.metrics
    assert "kernel_first_use_s/unwritten" in measured.journal.metrics
    assert measured.artifacts == EVERY_RUN | {"micro/table.csv", "micro/table.md"}, "there is nothing to draw"


def cannot_be_imported() -> Step:
    import no_such_kernels  # type: ignore[import-not-found]

    return no_such_kernels.step


def test_a_kernel_that_cannot_be_loaded(measure: Measure) -> None:
    measured = measure(entry("absent", cannot_be_imported), good())
    assert "absent: not timed: ModuleNotFoundError: No module named 'no_such_kernels'" in str(measured.failure)
    assert "Traceback (most recent call last)" in measured.log
    assert "Traceback" not in measured.output
    assert "kernel_first_use_s/absent" not in measured.journal.metrics
    assert measured.batches("kernel_us", "good") == [1, 3]


def test_a_batch_that_fails_is_that_batchs_failure(measure: Measure) -> None:
    measured = measure(failing("fragile", ValueError("no such\n batch"), at_batch=3), good())
    assert str(measured.failure) == "1 of 4 measurements failed: fragile batch 3: ValueError: no such batch"
    assert measured.batches("kernel_us", "fragile") == [1]
    assert measured.batches("kernel_us", "good") == [1, 3]


def test_a_batch_that_does_not_fit_is_a_result(measure: Measure) -> None:
    measured = measure(failing("large", torch.OutOfMemoryError(CUDA_MESSAGE), at_batch=3), good())
    assert type(measured.failure) is OutOfMemory
    message = "out of memory: large with batch 3 does not fit; 2.50 GiB more was requested"
    assert message in str(measured.failure)
    assert (measured.status["status"], measured.status["exit_code"]) == ("oom", 3)
    assert measured.journal.tags["ttt.status"] == "oom"
    assert measured.batches("kernel_us", "large") == [1]
    assert measured.batches("kernel_us", "good") == [1, 3]
    assert message in measured.journal.description
    assert pd.read_csv(measured.journal.artifacts / "micro/table.csv")["status"].tolist() == ["ok", "oom", "ok", "ok"]


def test_an_error_besides_a_batch_that_does_not_fit_is_an_error(measure: Measure) -> None:
    measured = measure(
        failing("large", torch.OutOfMemoryError(CUDA_MESSAGE), at_batch=3), entry("wrong", lambda: linear(too_large))
    )
    assert (type(measured.failure), measured.status["status"]) == (RunFailed, "error")


def test_times_of_a_state_that_is_no_longer_finite_are_not_kept(measure: Measure) -> None:
    def overflow(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
        if len(out) == 3:
            arguments[8][0, 0, 0, 0] = torch.inf
        return out

    measured = measure(entry("runaway", lambda: linear(overflow)))
    assert "runaway batch 3: the state is no longer finite after the timed steps" in str(measured.failure)
    assert measured.batches("kernel_us", "runaway") == [1]


@pytest.mark.parametrize("kind", [None, torch.OutOfMemoryError, ValueError])
def test_nothing_holds_a_batchs_memory_after_it(kind: type[Exception] | None, measure: Measure) -> None:
    """Without waiting for the garbage collector, and whether it was measured or failed."""
    states: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def note(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
        if not states or states[-1]() is not arguments[8]:
            alive.append(sum(state() is not None for state in states))
            states.append(weakref.ref(arguments[8]))
        if kind and len(out) == 1:
            raise kind("no")
        return out

    gc.disable()
    try:
        measure(entry("noted", lambda: linear(note)))
    finally:
        gc.enable()
    assert alive == [0, 0, 0], "the check, batch 1, batch 3"


# Ending early


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_was_measured(signum: signal.Signals, measure: Measure) -> None:
    measured = measure(good(), failing("second", Killed(signum), at_batch=3), good("third"))
    assert isinstance(measured.failure, Killed)
    assert (measured.status["status"], measured.status["exit_code"]) == ("killed", 128 + signum)
    assert measured.status["message"] == f"stopped by {signum.name}"
    assert measured.batches("kernel_us", "good") == [1, 3]
    assert measured.batches("kernel_us", "second") == [1]
    assert measured.batches("kernel_us", "third") == []
    assert measured.artifacts == EVERY_RUN | VIEWS
    assert "good" in measured.journal.description


def test_an_interruption_before_anything_is_timed(measure: Measure) -> None:
    measured = measure(failing("first", Killed(signal.SIGTERM), at_batch=2))
    assert measured.status["status"] == "killed"
    assert measured.journal.series == {}
    assert measured.artifacts == EVERY_RUN
    assert "killed" in measured.journal.description


def test_the_journal_is_written_as_the_run_goes_on(measure: Measure, tmp_path: Path) -> None:
    """A process that is killed at once leaves what was measured before."""
    seen: list[int] = []

    def look(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
        if len(out) == 3 and not seen:
            (journal,) = (Journal.open(path) for path in (tmp_path / "runs").iterdir())
            seen.extend(len(rows) for name, rows in journal.series.items() if name == "kernel_us/good")
            assert journal.status["status"] == "running"
        return out

    measure(good(), entry("second", lambda: linear(look)))
    assert seen == [2]


# The card


def test_the_share_of_the_cards_ceiling(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with the ceilings of a slow one."""

    def measure_card(run: micro_run.MicroRun) -> None:
        run.results.ceilings = {"card_read_gb_per_s": 2.0, "card_copy_gb_per_s": 1.5, "card_matmul_tflops": 0.25}

    monkeypatch.setattr(micro_run.MicroRun, "_measure_gpu", measure_card)
    measured = measure(good())
    assert {metric.name: measured.journal.metrics[metric.name] for metric in names.GPU_METRICS} == {
        "card_read_gb_per_s": 2.0,
        "card_copy_gb_per_s": 1.5,
        "card_matmul_tflops": 0.25,
    }
    rates = {batch: rate for _, batch, rate in measured.journal.series["kernel_gb_per_s/good"]}
    for _, batch, percent in measured.journal.series["kernel_read_ceiling_pct/good"]:
        assert percent == pytest.approx(100 * rates[batch] / 2.0, rel=1e-5)
    assert "the GPU reads 2 GB/s" in measured.journal.description


@pytest.fixture
def card_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is measured as on a GPU, the kernels are timed as on a CPU."""
    original = micro_run.MicroRun._measure_gpu

    def as_on_a_gpu(run: micro_run.MicroRun) -> None:
        monkeypatch.setattr(run, "_release", lambda: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        run.on_gpu = True
        original(run)
        run.on_gpu = False

    monkeypatch.setattr(micro_run.MicroRun, "_measure_gpu", as_on_a_gpu)


def test_a_card_that_cannot_be_measured_costs_no_kernel(
    card_is_measured: None, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_ceilings(device: torch.device) -> GpuCeilings:
        raise RuntimeError("the GPU is busy")

    monkeypatch.setattr(micro_run, "measure_ceilings", measure_ceilings)
    measured = measure(good())
    assert str(measured.failure) == "the GPU's ceilings were not measured: RuntimeError: the GPU is busy"
    assert measured.batches("kernel_us", "good") == [1, 3]
    assert not {metric.name for metric in names.GPU_METRICS} & set(measured.journal.metrics)


@pytest.mark.parametrize("message", [None, "the ceilings are not kept for later runs: the disk is full"])
def test_the_cards_ceilings_are_kept_for_the_models_runs(
    message: str | None, card_is_measured: None, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[GpuCeilings] = []

    def keep_ceilings(device: torch.device, ceilings: GpuCeilings) -> str | None:
        kept.append(ceilings)
        return message

    monkeypatch.setattr(micro_run, "measure_ceilings", lambda device: GpuCeilings(2.0, 1.5, 0.25))
    monkeypatch.setattr(micro_run, "keep_ceilings", keep_ceilings)
    measured = measure(good())
    assert measured.failure is None, "a cache that cannot be written is no fault of the measurement"
    assert kept == [GpuCeilings(2.0, 1.5, 0.25)]
    assert measured.journal.metrics["card_read_gb_per_s"] == 2.0
    assert ("the ceilings are not kept for later runs: the disk is full" in measured.log) == bool(message)


def test_clocks_are_those_of_each_kernels_own_section(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    clocks = {1: 1500, 3: 1800}

    def wait_for_samples(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
        """Let samples be taken while this batch is timed, at a clock of its own."""
        nvml.sm_clock = clocks.get(len(out), 345)
        nvml.wait_for_samples()
        return out

    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID, hz=500))
    measured = measure(entry("slow", lambda: linear(wait_for_samples)))
    assert measured.failure is None
    series = measured.journal.series
    found = {batch: value for _, batch, value in series["kernel_sm_clock_mhz_mean/slow"]}
    # the first sample of a section may still be the other batch's
    assert found == pytest.approx(clocks, rel=0.1)
    assert {batch: value for _, batch, value in series["kernel_power_w_mean/slow"]} == {1: 630.25, 3: 630.25}
    assert {batch: value for _, batch, value in series["kernel_temperature_c_max/slow"]} == {1: 41, 3: 41}
    assert names.SYSTEM_POWER.of(0).name in series
    assert measured.artifacts == EVERY_RUN | VIEWS | {
        *("telemetry/samples.csv", "telemetry/queries.csv", "telemetry/clocks.png")
    }
    assert measured.journal.metrics["power_w_mean"] == pytest.approx(630.25)
    assert nvml.open_count == 0


def test_each_kernel_and_batch_is_judged(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, by a stand-in for NVML whose card gets hot under the second batch."""
    nvml, hot = FakeNvml(), 1 << names.CLOCK_EVENT_REASONS.index("sw_thermal_slowdown")

    def heat(out: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
        nvml.reasons = {1: 0, 3: hot}.get(len(out), 0)
        nvml.wait_for_samples()
        return out

    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(lifecycle, "open_sampler", lambda device, reporter: NvmlSampler.open(GPU_UUID, hz=500))
    monkeypatch.setattr(micro_run, "judge_section", lambda on_gpu, *rest: judge_section(True, *rest))
    measured = measure(entry("slow", lambda: linear(heat)), thresholds="section_s=0,event_pct=30")
    first, second = measured.results.cells
    assert "sw_thermal_slowdown" not in first.reasons
    assert (second.verdict, second.reasons) == ("invalid", ["sw_thermal_slowdown"])
    assert measured.journal.tags["ttt.verdict"] == "invalid"
    assert measured.journal.tags["ttt.reasons"] == "sw_thermal_slowdown"
    table = pd.read_csv(measured.journal.artifacts / "micro/table.csv")
    assert table["reasons"].fillna("").tolist() == ["", "sw_thermal_slowdown"]
    assert "invalid: sw_thermal_slowdown" in (measured.journal.artifacts / "micro/table.md").read_text()


def test_a_signal_while_a_failure_is_recorded(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the record would say that the run is still going on."""
    ends = a_signal_at_the_first_end(monkeypatch)
    measured = measure(failing("first", ValueError("no such thing"), at_batch=3))
    assert ends == ["error", "killed"]
    assert isinstance(measured.failure, Killed)
    assert (measured.journal.status["status"], measured.journal.status["message"]) == ("killed", "stopped by SIGINT")


# nsys


def test_nsys_records_what_was_timed(measure: Measure, tmp_path: Path) -> None:
    nsys = FakeNsys(tmp_path)
    measured = measure(nsys=nsys, kernels="mlp_1_dual,mlp_2_dual")
    assert measured.failure is None, measured.log
    assert measured.journal.tags["ttt.nsys"] == nsys.version
    assert measured.journal.metrics["profile_s"] > 0
    reports = {"report.nsys-rep", "cuda_gpu_kern_sum.csv", "cuda_api_sum.csv", "nvtx_sum.csv", "nsys.log"}
    assert measured.artifacts == EVERY_RUN | VIEWS | {f"profiles/nsys/{name}" for name in reports}
    assert measured.artifacts <= ARTIFACT_PATHS
    log = (measured.journal.artifacts / "profiles/nsys/nsys.log").read_text()
    assert (
        "ran a mini-batch or a prompt of mlp_1_dual batch 1, mlp_1_dual batch 3, mlp_2_dual batch 1, mlp_2_dual" in log
    )


def test_an_nsys_that_fails_keeps_the_measurement(measure: Measure, tmp_path: Path) -> None:
    nsys = FakeNsys(tmp_path, profile="echo the driver says no; exit 3")
    measured = measure(nsys=nsys, kernels="mlp_1_dual")
    message = f"profile=nsys: ended with exit code 3 and left no report: the driver says no; {COMPLETE}"
    assert str(measured.failure) == message
    assert (measured.status["status"], measured.status["exit_code"]) == ("error", 1)
    assert measured.batches("kernel_us", "mlp_1_dual") == [1, 3]
    assert message in measured.journal.description
    assert "profiles/nsys/nsys.log" in measured.artifacts


@pytest.mark.long
def test_an_nsys_that_fails_after_a_kernel_did(measure: Measure, tmp_path: Path) -> None:
    measured = measure(failing("first", ValueError("no such thing"), at_batch=3), nsys=FakeNsys(tmp_path, "exit 3"))
    assert "1 of 2 measurements failed" in str(measured.failure)
    assert "profile=nsys: ended with exit code 3" in str(measured.failure)
    assert COMPLETE not in str(measured.failure)


@pytest.mark.long
def test_an_nsys_that_is_gone_by_then(measure: Measure, tmp_path: Path) -> None:
    class Gone(FakeNsys):
        def find(self) -> Nsys:
            found = super().find()
            self.path.unlink()
            return found

    measured = measure(nsys=Gone(tmp_path), kernels="mlp_1_dual")
    assert str(measured.failure).startswith("profile=nsys: FileNotFoundError: ")
    assert measured.journal.metrics["profile_s"] > 0


def test_a_disk_that_nsys_fills_has_room_for_the_end_of_the_record(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the report on it is full, up to what was kept free."""
    write = Path.write_text

    def full(path: Path, text: str) -> int:
        if path.name == "cuda_gpu_kern_sum.csv":
            assert (path.parents[3] / FOLDER).exists()
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", full)
    measured = measure(nsys=FakeNsys(tmp_path), kernels="mlp_1_dual")
    room = f"free some space in {measured.journal.path.parent} and profile again"
    message = f"profile=nsys: cannot be written (No space left on device); {room}; {COMPLETE}"
    assert (measured.status["status"], measured.status["message"]) == ("error", message)
    assert measured.batches("kernel_us", "mlp_1_dual") == [1, 3]
    assert message in measured.journal.description


def test_a_signal_while_nsys_records(measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise Killed(signal.SIGINT)

    monkeypatch.setattr(micro_run, "profile", interrupted)
    measured = measure(nsys=FakeNsys(tmp_path), kernels="mlp_1_dual")
    message = "stopped by SIGINT during profile=nsys, after a complete measurement"
    assert (measured.status["status"], measured.status["message"]) == ("killed", message)
    assert measured.batches("kernel_us", "mlp_1_dual") == [1, 3]


def test_nothing_timed_is_nothing_to_profile(measure: Measure, tmp_path: Path) -> None:
    measured = measure(entry("wrong", lambda: linear(too_large)), nsys=FakeNsys(tmp_path))
    assert "ttt.nsys" not in measured.journal.tags
    assert measured.artifacts == EVERY_RUN | {"micro/table.csv", "micro/table.md"}

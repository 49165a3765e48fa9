"""One micro-benchmark from start to end: check every kernel, measure the card, time kernel by kernel, record.

:func:`run` tells the story in order. What fails is recorded as that kernel's (or that batch's) failure and the others
go on; the journal is written after each, so that whatever ends the run leaves what was measured until then.
"""

import gc
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ttt_mlflow.errors import OutOfMemory, RunFailed, TTTError, end_if_asked, one_line
from ttt_mlflow.measurement.ceilings import measure_ceilings
from ttt_mlflow.measurement.ceilings_cache import keep_ceilings
from ttt_mlflow.measurement.evidence import card_evidence
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.measurement.verdict import Verdict, combined, judge_section
from ttt_mlflow.micro import check, nsys_child
from ttt_mlflow.micro.inputs import RandomSource, StepShape, make_inputs, make_positions
from ttt_mlflow.micro.plan import ResolvedMicro, resolve
from ttt_mlflow.micro.registry import KernelEntry, Step
from ttt_mlflow.micro.timing import copies_for, free_bytes, l2_bytes, time_on_cpu, time_on_gpu
from ttt_mlflow.names import kernel_metric
from ttt_mlflow.profilers.nsys import Nsys, NsysOptions, profile
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.log import run_log
from ttt_mlflow.record.micro_results import CellResult, KernelResult, MicroResults, Status
from ttt_mlflow.report.micro_chart import chart_html, kernels_png, timed_kernels
from ttt_mlflow.report.micro_table import (
    SAMPLES,
    ceilings_text,
    cell_text,
    micro_markdown,
    table_csv,
    table_markdown,
)
from ttt_mlflow.run.attempt import COMPLETE, after_the_measurement, attempt_pass
from ttt_mlflow.run.out_of_memory import out_of_memory_message
from ttt_mlflow.run.recording import (
    killed_is_recorded,
    open_sampler,
    record_end,
    record_environment,
    record_samples,
    record_verdict,
)
from ttt_mlflow.telemetry import samples
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.telemetry.samples import Section

__all__ = ["resolve", "run"]

NSYS_START_S, NSYS_CELL_S = 120.0, 30.0  # how long the profiled process may take: in all, and for each measurement
CELL_TELEMETRY = ("sm_clock_mhz_mean", "power_w_mean", "temperature_c_max")
log = logging.getLogger(__name__)


def run(resolved: ResolvedMicro, journal: Journal, console: Console, imports_s: float) -> None:
    """Time kernels and record them in ``journal``, its status included.

    ``imports_s`` is what the process took to get here. Raises, after recording, OutOfMemory or RunFailed where a
    kernel could not be measured, or Killed.
    """
    with run_log(journal):
        failure = _measure(resolved, journal, console, imports_s)
    if failure:
        raise failure


class Run:
    """One micro-benchmark in progress, and what it leaves behind."""

    def __init__(self, resolved: ResolvedMicro, journal: Journal, console: Console) -> None:
        self.used, self.entries, self.batches = resolved.used, resolved.entries, resolved.batches
        self.device, self.dtype, self.notices = resolved.device, resolved.dtype, resolved.notices
        self.on_gpu = self.device.type == "cuda"
        self.journal, self.console = journal, console
        self.nsys = resolved.nsys
        self.problems: list[str] = []  # besides those of kernels
        self.steps: dict[str, Step] = {}  # of the kernels that are right
        self.sampler: NvmlSampler | None = None
        self.thresholds = Thresholds.parse(self.used.thresholds)
        self.verdicts: list[Verdict] = []  # one a cell that was timed
        self.results = MicroResults(
            config=self.used.as_params(),
            device_name=torch.cuda.get_device_name(self.device) if self.on_gpu else "CPU",
            l2_bytes=l2_bytes(self.device) if self.on_gpu else None,
        )

    def measure(self, imports_s: float) -> None:
        self.record_configuration(imports_s)
        self.sampler = open_sampler(self.device, self.console)
        with self.sampler or nullcontext():
            try:
                self.release()  # of what was there before in this process
                for entry in self.entries:
                    self.check_kernel(entry)
                self.measure_card()
                with self.progress() as progress:
                    for entry in self.entries:
                        for batch in self.batches:
                            progress(f"{entry.name} batch {batch}")
                            self.time_kernel(entry, batch)
            finally:
                if self.sampler:
                    self.sampler.stop()
                self.record_results()
        if self.nsys:
            with after_the_measurement("while profiling"):
                self.profile(self.nsys)

    # The parts of the story

    def check_kernel(self, entry: KernelEntry) -> None:
        """Is the kernel right, and how soon is it there? Only then it is timed."""
        result = KernelResult(name=entry.name, layer_type=entry.layer_type, form=entry.form)
        with self.console.status(f"checking {entry.name}"):
            result.status, result.message = self.attempt(
                f"{entry.name} batch {check.BATCH}", lambda: self.first_use_and_errors(entry, result)
            )
        if result.status == "error" and result.message:
            result.message = f"not timed: {result.message}"
        self.results.kernels.append(result)
        self.record_progress()
        parts = [f"first use {result.first_use_s:.2f} s"] if result.first_use_s is not None else []
        parts += [f"relative error {result.error:.1e}"] if result.error is not None else []
        self.say(f"{entry.name}: {', '.join([*parts, *([result.message] if result.message else [])])}")

    def first_use_and_errors(self, entry: KernelEntry, result: KernelResult) -> None:
        shape = self.shape(entry, check.BATCH)
        inputs = make_inputs(shape, RandomSource(self.used.seed, self.device), check.TOKENS)
        position = make_positions(self.device)[0]
        self.synchronize()
        began = time.perf_counter()
        step = entry.load()
        if entry.overlaps:  # as the models launch it; nothing here writes the state just before a step
            step = partial(step, overlap=True)
        step(*inputs.arguments(0, position))
        self.synchronize()
        result.first_use_s = time.perf_counter() - began
        errors = check.step_errors(step, inputs, shape)
        worst, tolerance = check.worst(errors), check.TOLERANCE[self.dtype]
        result.errors = {name: error for name, error in errors.items() if math.isfinite(error)}
        result.error = worst if math.isfinite(worst) else None
        if not worst <= tolerance:
            found = f"relative error {worst:.1e}" if math.isfinite(worst) else "NaN or infinite numbers"
            raise RunFailed(f"wrong result: {found} against float64, {self.used.dtype} may have {tolerance:.0e}")
        self.steps[entry.name] = step

    def measure_card(self) -> None:
        """What the card can do, just before the kernels are timed."""
        if not self.on_gpu or not self.steps:
            return
        with self.console.status("measuring the card's ceilings"):
            _, message = self.attempt("measuring the card's ceilings", self.ceilings)
        if message:
            self.problems.append(f"the card's ceilings were not measured: {message}")
        self.record_progress()
        self.say(message or ceilings_text(self.results))

    def ceilings(self) -> None:
        found = measure_ceilings(self.device)
        self.results.ceilings = {f"card_{name}": value for name, value in asdict(found).items()}
        if message := keep_ceilings(self.device, found):
            self.say(f"Note: {message}")

    def time_kernel(self, entry: KernelEntry, batch: int) -> None:
        shape = self.shape(entry, batch)
        cell = CellResult(kernel=entry.name, batch=batch, floor_bytes=shape.floor_bytes)
        kernel = self.results.kernel(entry.name)
        if entry.name in self.steps:
            sections = len(self.sampler.sections) if self.sampler else 0
            what = f"{entry.name} with batch {batch}"
            cell.status, cell.message = self.attempt(what, lambda: self.time_steps(entry, shape, cell))
            if self.sampler and self.sampler.sections[sections:]:
                found = samples.summarise(self.sampler.frame(), self.sampler.sections[sections:])
                cell.telemetry = {name: found[name] for name in CELL_TELEMETRY if name in found}
            if cell.us:
                self.judge(cell, self.sampler.sections[sections:] if self.sampler else [])
        else:
            cell.status, cell.message = kernel.status, kernel.message
        cell.ended_ms = time.time_ns() // 1_000_000
        self.results.cells.append(cell)
        self.record_progress()
        self.say(cell_text(cell, self.results))

    def judge(self, cell: CellResult, sections: Sequence[Section]) -> None:
        """Whether the card let the kernel be measured; a CPU is not judged."""
        card = card_evidence(self.sampler, sections) if self.sampler else None
        section_s = sum(section.seconds for section in sections)
        verdict = judge_section(self.on_gpu, section_s, card, self.thresholds)
        cell.verdict, cell.reasons = verdict.word, verdict.names
        self.verdicts.append(verdict)

    def time_steps(self, entry: KernelEntry, shape: StepShape, cell: CellResult) -> None:
        count = copies_for(shape, l2_bytes(self.device), free_bytes(self.device)) if self.on_gpu else 1
        cell.copies, cell.copy_bytes = count, shape.copy_bytes
        source = RandomSource(self.used.seed, self.device)
        copies = [make_inputs(shape, source) for _ in range(count)]
        step = self.steps[entry.name]
        if entry.overlaps:
            cell.overlap = count > 1  # one copy alone: each launch follows the one that wrote its state
            step = partial(step, overlap=cell.overlap)
        if self.on_gpu:
            timing = time_on_gpu(step, shape, copies, self.used.seconds, self.mark)
        else:
            timing = time_on_cpu(step, copies, self.used.seconds, self.mark)
        if not all(_is_finite(part) for inputs in copies for part in inputs.state):
            raise RunFailed("the state is no longer finite after the timed steps; the times are not kept")
        cell.us, cell.launches = timing.us.tolist(), timing.launches

    def profile(self, nsys: Nsys) -> None:
        """A mini-batch of all that was timed under nsys, in a process of its own; the measurement stands as it is."""
        cells = [(cell.kernel, cell.batch) for cell in self.results.cells if cell.us]
        if not cells:
            return
        self.steps.clear()
        self.release()
        began = time.perf_counter()
        with self.console.status("profiling with nsys"):
            problem = attempt_pass("nsys", self.journal, self.device, lambda: self.nsys_pass(nsys, cells))
        if problem:
            self.problems.append(f"{problem}; {COMPLETE}" if len(cells) == len(self.results.cells) else problem)
        seconds = time.perf_counter() - began
        self.journal.update_metrics({"profile_s": seconds})
        self.say(f"{problem or f'profiled with nsys {nsys.version}'}: {seconds:.1f} s")

    def nsys_pass(self, nsys: Nsys, cells: list[tuple[str, int]]) -> None:
        self.journal.update_tags({"ttt.nsys": nsys.version})
        config = self.used.model_copy(
            update={
                "profile": (),
                "nsys_args": None,
                "nsys_export": "none",
                "kernels": tuple(timed_kernels(self.results)),
            }
        )
        command = [
            sys.executable,
            "-m",
            nsys_child.__name__,
            nsys_child.Plan(config=config, cells=cells).model_dump_json(),
        ]
        options = NsysOptions.parse(self.used.nsys_args, self.used.nsys_export == "sqlite")
        out_dir = self.journal.artifact_path("profiles/nsys/nsys.log").parent
        profile(nsys, command, out_dir, NSYS_START_S + NSYS_CELL_S * len(cells), options)

    # What each part needs

    def shape(self, entry: KernelEntry, batch: int) -> StepShape:
        return StepShape(entry.layer_type, entry.form, batch, self.used.heads, self.used.head_dim, self.dtype)

    def attempt(self, what: str, action: Callable[[], None]) -> tuple[Status, str | None]:
        """Do it; status, and in one line why it failed. The memory that it took is free again."""
        status: Status = "ok"
        message: str | None = None
        try:
            if self.on_gpu:
                torch.cuda.reset_peak_memory_stats(self.device)
            action()
        except Exception as error:
            log.error("%s failed\n%s", what, traceback.format_exc())
            message = out_of_memory_message(error, what, self.device)
            status = "oom" if message else "error"
            message = message or (str(error) if isinstance(error, TTTError) else one_line(error))
        self.release()
        return status, message

    def release(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def mark(self, edge: str) -> None:
        if self.sampler:
            self.sampler.mark(edge)

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    # The record

    def record_configuration(self, imports_s: float) -> None:
        self.journal.set_used(self.used.model_dump(mode="json"))
        absent = {"nsys_args"} if self.used.nsys_args is None else set()
        self.journal.update_params(self.used.model_dump(exclude=absent))
        self.journal.update_metrics({"imports_s": imports_s})
        record_environment(self.journal, self.used, self.device)
        log.info("measuring %s with %s", self.used.run_name, self.used.as_params())
        for notice in self.notices:
            log.info("notice: %s", notice)

    def record_progress(self) -> None:
        """Raw results, metrics and series, as far as they go."""
        results = self.results
        self.journal.write_artifact(SAMPLES, results.model_dump_json(indent=1))
        metrics = dict(results.ceilings)
        for kernel in results.kernels:
            for name, value in (("kernel_error", kernel.error), ("kernel_first_use_s", kernel.first_use_s)):
                if value is not None:
                    metrics[kernel_metric(name, kernel.name)] = value
        self.journal.update_metrics(metrics)
        self.journal.set_series(series(results))

    def record_results(self) -> None:
        """The views of the results, and the samples."""
        self.record_progress()
        record_verdict(self.journal, combined(self.verdicts, self.thresholds))
        if self.results.cells:
            self.journal.write_artifact("micro/table.csv", table_csv(self.results))
            self.journal.write_artifact("micro/table.md", table_markdown(self.results))
        if timed_kernels(self.results):
            self.journal.write_artifact("micro/kernels.png", kernels_png(self.results))
            self.journal.write_artifact("micro/kernels.html", chart_html(self.results))
        if self.sampler:
            system = record_samples(self.journal, self.sampler, self.device, self.used.run_name)
            self.journal.set_series(series(self.results) | system)
            self.journal.update_metrics(samples.summarise(self.sampler.frame(), self.sampler.sections))

    # What the person sees meanwhile

    def say(self, text: str) -> None:
        log.info("%s", text)
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """A bar that moves between kernels only: nothing is drawn while one is timed."""
        columns = (TextColumn("timing"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, auto_refresh=False, redirect_stdout=False, transient=True) as bar:
            task = bar.add_task("", total=len(self.entries) * len(self.batches))

            def show(text: str) -> None:
                end_if_asked()
                bar.update(task, completed=len(self.results.cells), description=text, refresh=True)

            yield show


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are, without a mask of the state's size."""
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def series(results: MicroResults) -> dict[str, list[tuple[int, int, float]]]:
    """A series a kernel and quantity, with the batch as the step: what MLflow plots."""
    found: dict[str, list[tuple[int, int, float]]] = {}

    def put(name: str, cell: CellResult, value: float | None) -> None:
        if value is not None and cell.ended_ms is not None:
            found.setdefault(kernel_metric(name, cell.kernel), []).append((cell.ended_ms, cell.batch, value))

    for cell in results.cells:
        if cell.quantiles:
            for name, value in zip(("kernel_us", "kernel_us_p20", "kernel_us_p80"), cell.quantiles, strict=True):
                put(name, cell, value)
            put("kernel_gb_per_s", cell, cell.gb_per_s)
            put("kernel_read_ceiling_pct", cell, results.read_ceiling_pct(cell))
        for name, value in cell.telemetry.items():
            put(f"kernel_{name}", cell, value)
    return found


def _measure(resolved: ResolvedMicro, journal: Journal, console: Console, imports_s: float) -> TTTError | None:
    """Measure, and give the journal its status, whatever ends the run; a failure is returned for the caller."""
    with killed_is_recorded(journal, micro_markdown):
        try:
            one = Run(resolved, journal, console)
            one.measure(imports_s)
            failure = _failure_of(one.results, one.problems)
        except Exception as error:
            log.error("the run ended early\n%s", traceback.format_exc())
            failure = RunFailed(str(error) if isinstance(error, TTTError) else one_line(error))
        status = "ok" if failure is None else "oom" if isinstance(failure, OutOfMemory) else "error"
        message, exit_code = (str(failure), failure.exit_code) if failure else (None, 0)
        record_end(journal, status, message, exit_code, micro_markdown)
    return failure


def _failure_of(results: MicroResults, problems: list[str]) -> TTTError | None:
    """What could not be done, in one line; OutOfMemory if memory was all that it lacked."""
    failed = [cell for cell in results.cells if cell.status != "ok"]
    reasons = list(problems)
    if failed:
        why = "; ".join(f"{where}: {message}" for where, message in results.failures.items())
        reasons.insert(0, f"{len(failed)} of {len(results.cells)} measurements failed: {why}")
    if not reasons:
        return None
    lacked_memory = not problems and all(cell.status == "oom" for cell in failed)
    return (OutOfMemory if lacked_memory else RunFailed)("; ".join(reasons))

"""A micro-benchmark: checks every kernel, measures the GPU's ceilings, times each kernel, and records.

:func:`ttt_mlflow.run.lifecycle.conduct` calls the public methods of :class:`MicroRun` from top to bottom. A failure is
recorded for its kernel (or its batch), and the others continue. The record is written after each of them, so an early
end of the run keeps what was measured.
"""

import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from ttt_mlflow import names
from ttt_mlflow.errors import OutOfMemory, RunFailed, TTTError
from ttt_mlflow.measurement.ceilings import measure_ceilings
from ttt_mlflow.measurement.ceilings_cache import keep_ceilings
from ttt_mlflow.measurement.evidence import gpu_evidence
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.measurement.verdict import Verdict, combined, judge_section
from ttt_mlflow.micro import check, nsys_child
from ttt_mlflow.micro.entry import KernelEntry, Step
from ttt_mlflow.micro.plan import SAMPLES, SAMPLES_BYTES, MicroPlan
from ttt_mlflow.micro.registry import package_of
from ttt_mlflow.micro.task import Inputs, RandomSource, Task, make_positions
from ttt_mlflow.micro.timing import copies_for, free_bytes, l2_bytes, time_on_cpu, time_on_gpu
from ttt_mlflow.names import KernelMetric, Metrics, Series
from ttt_mlflow.profilers.nsys import Nsys, NsysOptions, profile
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.micro_results import CellResult, KernelResult, MicroResults, Status
from ttt_mlflow.record.room import UNWRITABLE
from ttt_mlflow.report.micro_chart import chart_html, kernels_png, timed_kernels
from ttt_mlflow.report.micro_table import ceilings_text, cell_text, table_csv, table_markdown
from ttt_mlflow.run.attempt import COMPLETE, after_the_measurement, attempt, attempt_pass
from ttt_mlflow.run.least_memory import refuse_beyond_memory
from ttt_mlflow.run.recording import record_optional, record_samples, record_system_series, record_verdict
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.telemetry import samples
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.telemetry.samples import Section

NSYS_START_S, NSYS_CELL_S = 120.0, 30.0  # time limit of the profiled process: its start, and each measurement
CELL_TELEMETRY: dict[names.Metric, KernelMetric] = {
    names.SM_CLOCK_MHZ_MEAN: names.KERNEL_SM_CLOCK_MHZ_MEAN,
    names.POWER_W_MEAN: names.KERNEL_POWER_W_MEAN,
    names.TEMPERATURE_C_MAX: names.KERNEL_TEMPERATURE_C_MAX,
}


class MicroRun:
    """One micro-benchmark and its results."""

    def __init__(self, plan: MicroPlan, record: Journal, reporter: Reporter) -> None:
        self.plan, self.record, self.reporter = plan, record, reporter
        self.used, self.device = plan.used, plan.device
        self.on_gpu = self.device.type == "cuda"
        self.problems: list[str] = []  # problems that do not belong to a kernel
        self.told = False  # that the disk is full
        self.steps: dict[str, Step] = {}  # of the kernels with correct results
        self.sampler: NvmlSampler | None = None
        self.thresholds = Thresholds.parse(self.used.thresholds)
        self.verdicts: list[Verdict] = []  # one for each timed cell
        self.results = MicroResults(
            config=self.used.as_params(),
            device_name=torch.cuda.get_device_name(self.device) if self.on_gpu else "CPU",
            l2_bytes=l2_bytes(self.device) if self.on_gpu else None,
        )

    def measure(self, sampler: NvmlSampler | None) -> None:
        self.sampler = sampler
        self._release()  # memory of earlier work in this process
        gc.freeze()  # the objects of all modules need not be searched again, 0.5 s each time, for what a kernel left
        try:
            self._measure_all()
        finally:
            gc.unfreeze()

    def _measure_all(self) -> None:
        for entry in self.plan.entries:
            self._check_kernel(entry)
        self._measure_gpu()
        cells = self.plan.cells
        with self.reporter.progress("timing") as show:
            for done, (entry, batch) in enumerate(cells):
                show(done / len(cells), f"{entry.name} batch {batch}")
                self._time_kernel(entry, batch)
            show(1.0, f"kernels and batches: {len(cells)}")

    def record_measured(self) -> None:
        """Record the numbers first, in reserved space; then what a full disk may cost: tables, charts, samples."""
        record, results, reporter = self.record, self.results, self.reporter
        record.write_artifact(names.ARTIFACT_MICRO_SAMPLES, results.model_dump_json(indent=1), reserved=True)
        self._record_numbers()
        record_verdict(record, combined(self.verdicts, self.thresholds))
        if self.sampler:
            record.update_metrics(samples.summarize(self.sampler.frame(), self.sampler.sections))
        if results.cells:
            record_optional(record, reporter, names.ARTIFACT_MICRO_CSV, lambda: table_csv(results))
            record_optional(record, reporter, names.ARTIFACT_MICRO_TABLE, lambda: table_markdown(results))
        if timed_kernels(results):
            record_optional(record, reporter, names.ARTIFACT_MICRO_CHART, lambda: kernels_png(results))
            record_optional(record, reporter, names.ARTIFACT_MICRO_PAGE, lambda: chart_html(results))
        if self.sampler:
            system = record_samples(record, reporter, self.sampler, self.device, self.used.run_name)
            record_system_series(record, reporter, series(results), system)

    def profile(self) -> None:
        """Run a mini-batch, or a prompt, of everything that was timed under nsys, in a separate process."""
        nsys, cells = self.plan.nsys, [(cell.kernel, cell.batch) for cell in self.results.cells if cell.us]
        if not nsys or not cells:
            return
        self.steps.clear()
        self._release()
        began = time.perf_counter()
        with after_the_measurement("while profiling"), self.reporter.status("profiling with nsys"):
            problem = attempt_pass("nsys", self.record, self.device, lambda: self._nsys_pass(nsys, cells))
        if problem:
            complete = len(cells) == len(self.results.cells)
            self.problems.append(f"{problem}; {COMPLETE}" if complete else problem)
        seconds = time.perf_counter() - began
        self.record.update_metrics({names.PROFILE_S: seconds})
        self.reporter.say(f"{problem or f'profiled with nsys {nsys.version}'}: {seconds:.1f} s")

    def failure(self) -> TTTError | None:
        """What failed, in one line; OutOfMemory if a lack of memory was the only cause."""
        failed = [cell for cell in self.results.cells if cell.status != "ok"]
        reasons = list(self.problems)
        if failed:
            why = "; ".join(f"{where}: {message}" for where, message in self.results.failures.items())
            reasons.insert(0, f"{len(failed)} of {len(self.results.cells)} measurements failed: {why}")
        if not reasons:
            return None
        lacked_memory = not self.problems and all(cell.status == "oom" for cell in failed)
        return (OutOfMemory if lacked_memory else RunFailed)("; ".join(reasons))

    # Stages of the run

    def _check_kernel(self, entry: KernelEntry) -> None:
        """Check the kernel's results and measure its first use. Only a correct kernel is timed."""
        title = entry.operation.title
        result = KernelResult(name=entry.name, layer_type=entry.layer_type, form=entry.form, title=title)
        with self.reporter.status(f"checking {entry.name}"):
            result.status, result.message = self._attempt(
                f"{entry.name} batch {check.BATCH}", lambda: self._first_use_and_errors(entry, result)
            )
        if result.status == "error" and result.message:
            package = package_of(entry.name)
            result.message = f"not timed: {f'{package}: ' if package else ''}{result.message}"
        self.results.kernels.append(result)
        self._record_progress()
        parts = [f"first use {result.first_use_s:.2f} s"] if result.first_use_s is not None else []
        parts += [f"relative error {result.error:.1e}"] if result.error is not None else []
        self.reporter.say(f"{entry.name}: {', '.join([*parts, *([result.message] if result.message else [])])}")

    def _first_use_and_errors(self, entry: KernelEntry, result: KernelResult) -> None:
        task = self.plan.task(entry, check.BATCH)
        self._refuse_beyond_memory(entry, task)
        inputs = task.inputs(RandomSource(self.used.seed, self.device), task.checked_calls)
        positions = make_positions(self.device)
        self._synchronize()
        began = time.perf_counter()
        step = entry.load()
        if entry.overlaps:  # as the models launch it; nothing here writes the state just before a step
            step = partial(step, overlap=True)
        step(*inputs.arguments(0, positions))
        self._synchronize()
        result.first_use_s = time.perf_counter() - began
        self._compare(entry, step, inputs, task, result)
        others = {batch for one, batch in self.plan.cells if one is entry} if entry.by_batch else set()
        for batch in sorted(others - {check.BATCH}):
            del inputs  # of a head's weight in float64, one copy is enough
            task = self.plan.task(entry, batch)
            self._refuse_beyond_memory(entry, task)
            inputs = task.inputs(RandomSource(self.used.seed, self.device), task.checked_calls)
            self._compare(entry, step, inputs, task, result)
        self.steps[entry.name] = step

    def _compare(self, entry: KernelEntry, step: Step, inputs: Inputs, task: Task, result: KernelResult) -> None:
        """Keep the largest errors of ``result``. Raises RunFailed for a wrong result."""
        errors = check.step_errors(entry.checkable(step), inputs, task)
        worst, tolerance = check.worst(errors), check.TOLERANCE[self.plan.dtype]
        for name, error in errors.items():
            if math.isfinite(error):
                result.errors[name] = max(error, result.errors.get(name, 0.0))
        if not worst <= tolerance:
            found = f"relative error {worst:.1e}" if math.isfinite(worst) else "NaN or infinite numbers"
            where = f" with batch {task.batch}" if task.batch != check.BATCH else ""
            result.error = worst if math.isfinite(worst) else None
            raise RunFailed(
                f"wrong result{where}: {found} against float64; {self.used.dtype} allows a relative error of "
                f"{tolerance:.0e}"
            )
        result.error = max(worst, result.error or 0.0)

    def _measure_gpu(self) -> None:
        """Measure the GPU's ceilings just before the kernels are timed."""
        if not self.on_gpu or not self.steps:
            return
        with self.reporter.status("measuring the GPU's ceilings"):
            _, message = self._attempt("measuring the GPU's ceilings", self._ceilings)
        if message:
            self.problems.append(f"the GPU's ceilings were not measured: {message}")
        self._record_progress()
        self.reporter.say(message or ceilings_text(self.results))

    def _ceilings(self) -> None:
        found = measure_ceilings(self.device)
        measured: Metrics = {
            names.GPU_READ_GB_PER_S: found.read_gb_per_s,
            names.GPU_COPY_GB_PER_S: found.copy_gb_per_s,
            names.GPU_MATMUL_TFLOPS: found.matmul_tflops,
        }
        self.results.ceilings = {metric.name: value for metric, value in measured.items()}
        if message := keep_ceilings(self.device, found):
            self.reporter.warn(message)

    def _time_kernel(self, entry: KernelEntry, batch: int) -> None:
        task = self.plan.task(entry, batch)
        cell = CellResult(kernel=entry.name, batch=batch, floor_bytes=task.floor_bytes, flops=task.flops)
        cell.promptlen = task.promptlen
        kernel = self.results.kernel(entry.name)
        if entry.name in self.steps:
            sections = len(self.sampler.sections) if self.sampler else 0
            what = f"{entry.name} with batch {batch}"
            cell.status, cell.message = self._attempt(what, lambda: self._time_steps(entry, task, cell))
            if self.sampler and self.sampler.sections[sections:]:
                found = samples.summarize(self.sampler.frame(), self.sampler.sections[sections:])
                cell.telemetry = {metric.name: found[metric] for metric in CELL_TELEMETRY if metric in found}
            if cell.us:
                self._judge(cell, self.sampler.sections[sections:] if self.sampler else [])
        else:
            cell.status, cell.message = kernel.status, kernel.message
        cell.ended_ms = time.time_ns() // 1_000_000
        self.results.cells.append(cell)
        self._record_progress()
        self.reporter.say(cell_text(cell, self.results))

    def _judge(self, cell: CellResult, sections: Sequence[Section]) -> None:
        """The verdict on the timed section of ``cell``."""
        gpu = gpu_evidence(self.sampler, sections) if self.sampler else None
        # without a sampler, the section is known by its samples alone
        section_s = sum(section.seconds for section in sections) if self.sampler else cell.timed_s
        verdict = judge_section(self.on_gpu, section_s, gpu, self.thresholds)
        cell.verdict, cell.reasons = verdict.word, verdict.names
        self.verdicts.append(verdict)

    def _time_steps(self, entry: KernelEntry, task: Task, cell: CellResult) -> None:
        count = copies_for(task, l2_bytes(self.device), free_bytes(self.device)) if self.on_gpu else 1
        cell.copies, cell.copy_bytes = count, task.copy_bytes
        self._refuse_beyond_memory(entry, task)
        source = RandomSource(self.used.seed, self.device)
        copies = [task.inputs(source) for _ in range(count)]
        step = self.steps[entry.name]
        if entry.overlaps:
            cell.overlap = count > 1  # with one copy, each launch depends on the launch before it
            step = partial(step, overlap=cell.overlap)
        if self.on_gpu:
            timing = time_on_gpu(step, task, copies, self.used.seconds, self._mark)
        else:
            timing = time_on_cpu(step, copies, self.used.seconds, self._mark)
        if not all(_is_finite(part) for inputs in copies for part in inputs.state):
            raise RunFailed("the state is no longer finite after the timed steps; the times are discarded")
        cell.us, cell.launches = timing.us.tolist(), timing.launches

    def _batches_of(self, mode: str, cells: list[tuple[str, int]]) -> tuple[int, ...] | None:
        kernels = {entry.name for entry in self.plan.entries if entry.mode == mode}
        return tuple(sorted({batch for kernel, batch in cells if kernel in kernels})) or None

    def _nsys_pass(self, nsys: Nsys, cells: list[tuple[str, int]]) -> None:
        self.record.update_tags({names.TAG_NSYS: nsys.version})
        config = self.used.model_copy(
            update={
                "profile": (),
                "nsys_args": None,
                "nsys_export": "none",
                "kernels": tuple(timed_kernels(self.results)),
                "batches": self._batches_of("decode", cells),
                "prompt_batches": self._batches_of("prefill", cells),
            }
        )
        command = [
            sys.executable,
            "-m",
            nsys_child.__name__,
            nsys_child.Order(config=config, cells=cells).model_dump_json(),
        ]
        options = NsysOptions.parse(self.used.nsys_args, self.used.nsys_export == "sqlite")
        out_dir = self.record.artifact_path(names.ARTIFACT_NSYS_LOG).parent
        profile(nsys, command, out_dir, NSYS_START_S + NSYS_CELL_S * len(cells), options)

    # Helpers

    def _refuse_beyond_memory(self, entry: KernelEntry, task: Task) -> None:
        """The kernel of a host kills a process that takes too much; a GPU refuses, and the process goes on."""
        if not self.on_gpu:
            refuse_beyond_memory(f"{entry.name} with batch {task.batch}", task.copy_bytes)

    def _attempt(self, what: str, action: Callable[[], None]) -> tuple[Status, str | None]:
        """Run ``action``. Returns its status and, in one line, why it failed. Its memory is released."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        failure = attempt(action, what, self.device)
        self._release()
        if failure is None:
            return "ok", None
        return "oom" if isinstance(failure, OutOfMemory) else "error", str(failure)

    def _release(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def _mark(self, edge: str) -> None:
        if self.sampler:
            self.sampler.mark(edge)

    def _synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    # Recording

    def _record_progress(self) -> None:
        """Record the results so far, in case that this process is killed. Reserve room for those at the end."""
        content = self.results.model_dump_json(indent=1)
        try:
            self.record.room.reserve(SAMPLES, 2 * len(content) + SAMPLES_BYTES)
            self.record.write_artifact(names.ARTIFACT_MICRO_SAMPLES, content)
            self._record_numbers()
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            if not self.told:
                self.told = True
                self.reporter.warn(
                    f"the results so far cannot be recorded in {self.record.path.parent} ({error.strerror}); "
                    "they are recorded at the end, as far as room is reserved; free some space there"
                )

    def _record_numbers(self) -> None:
        results = self.results
        metrics: Metrics = {metric: results.ceilings[metric.name] for metric in names.GPU_METRICS if results.ceilings}
        for kernel in results.kernels:
            if kernel.error is not None:
                metrics[names.KERNEL_ERROR.of(kernel.name)] = kernel.error
            if kernel.first_use_s is not None:
                metrics[names.KERNEL_FIRST_USE_S.of(kernel.name)] = kernel.first_use_s
        self.record.update_metrics(metrics)
        self.record.set_series(series(results))


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite, computed without a mask of the state's size."""
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def series(results: MicroResults) -> Series:
    """One series for each kernel and quantity, with the batch as the step, for MLflow's charts."""
    found: Series = {}

    def put(metric: KernelMetric, cell: CellResult, value: float | None) -> None:
        if value is not None and cell.ended_ms is not None:
            found.setdefault(metric.of(cell.kernel), []).append((cell.ended_ms, cell.batch, value))

    for cell in results.cells:
        if cell.quantiles:
            quantiles = (names.KERNEL_US, names.KERNEL_US_P20, names.KERNEL_US_P80)
            for metric, value in zip(quantiles, cell.quantiles, strict=True):
                put(metric, cell, value)
            put(names.KERNEL_TOKENS_PER_S, cell, cell.tokens_per_s)
            put(names.KERNEL_GB_PER_S, cell, cell.gb_per_s)
            put(names.KERNEL_READ_CEILING_PCT, cell, results.read_ceiling_pct(cell))
            put(names.KERNEL_TFLOPS, cell, cell.tflops)
            put(names.KERNEL_MATRIX_CEILING_PCT, cell, results.matrix_ceiling_pct(cell))
            put(names.KERNEL_ROOFLINE_PCT, cell, results.roofline_pct(cell))
        for measured, metric in CELL_TELEMETRY.items():
            put(metric, cell, cell.telemetry.get(measured.name))
    return found

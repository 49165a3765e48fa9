"""One configuration from start to end: build, compile, warm up, measure, profile, record.

:func:`run` tells the story in order. The journal is written as the run goes on, so that whatever ends it leaves what
was measured until then.
"""

import gc
import json
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from ttt_mlflow.errors import Killed, OutOfMemory, RunFailed, TTTError, end_if_asked, one_line
from ttt_mlflow.measurement.evidence import evidence
from ttt_mlflow.measurement.loop import Measurement, measure_decode, measure_prefill
from ttt_mlflow.measurement.statistics import with_interval
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.measurement.timing import StepTimer, time_once
from ttt_mlflow.measurement.verdict import Verdict, judge
from ttt_mlflow.models.entry import Decoder
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.log import run_log
from ttt_mlflow.report.summary import summary_markdown
from ttt_mlflow.run.attempt import after_the_measurement
from ttt_mlflow.run.out_of_memory import out_of_memory_message
from ttt_mlflow.run.plan import Resolved, resolve
from ttt_mlflow.run.prepare import make_prompt, make_ready, profiled_steps, whole_periods
from ttt_mlflow.run.profile import Passes
from ttt_mlflow.run.recording import (
    killed_is_recorded,
    open_sampler,
    record_end,
    record_environment,
    record_roofline,
    record_samples,
    record_verdict,
)
from ttt_mlflow.telemetry import samples
from ttt_mlflow.telemetry.quiet import wait_until_quiet
from ttt_mlflow.telemetry.sampler import NvmlSampler

__all__ = ["resolve", "run"]

WARMUP_STEPS = 128  # of a warm-up pass at most, rounded up to whole periods: it need not be as long as a timed one
WARMUP_PASS_MS = 250.0  # as long as it need be: the end of the warm-up is looked for after each pass
log = logging.getLogger(__name__)


def run(resolved: Resolved, journal: Journal, console: Console, imports_s: float) -> None:
    """Measure one configuration and record it in ``journal``, its status included.

    ``imports_s`` is what the process took to get here. Raises, after recording, OutOfMemory, RunFailed or Killed.
    """
    with run_log(journal):
        failure = _measure(resolved, journal, console, imports_s)
    gc.collect()  # PyTorch's profiler leaves a cycle that holds the model; a later run needs the memory
    if failure:
        # here, where nothing is being handled: an exception's context would hold the model's memory
        raise failure


class Run:
    """One measurement in progress, and what it leaves behind."""

    def __init__(self, resolved: Resolved, journal: Journal, console: Console) -> None:
        self.used, self.request, self.entry = resolved.used, resolved.request, resolved.entry
        self.workload = resolved.workload
        self.notices, self.nsys = resolved.notices, resolved.nsys
        self.journal, self.console = journal, console
        self.device = resolved.request.device
        self.on_gpu = self.device.type == "cuda"
        self.measurement = self.new_measurement()
        self.prefill_ms: list[float] = []  # one a pass, warm-up passes first
        self.first_token_ms: list[float] = []
        self.phase_s: dict[str, float] = {}
        self.sampler: NvmlSampler | None = None
        self.thresholds = Thresholds.parse(self.used.thresholds)
        self.discarded: list[dict[str, Any]] = []  # attempts before the one that counts
        self.discarded_steps: list[pd.DataFrame] = []

    def measure(self, imports_s: float) -> None:
        self.phase_s["imports_s"] = imports_s
        self.record_configuration()
        self.sampler = self.open_sampler()
        decoder: Decoder | None = None
        with self.sampler or nullcontext():
            try:
                if self.on_gpu:
                    torch.cuda.empty_cache()  # what an earlier run of this process left cached is none of this one's
                    torch.cuda.reset_peak_memory_stats(self.device)
                with self.phase("setup_s", f"building {self.used.model_name}"):
                    model = self.entry.factory(self.request)
                    prompt = make_prompt(self.used, model.vocab_size, self.device)
                if hasattr(model, "parameter_count"):
                    self.journal.update_metrics({"model_parameters": model.parameter_count()})
                with self.phase("compile_s", "compiling and preparing the decode step"):
                    decoder = make_ready(self.used, model, prompt, self.entry.period)
                with self.progress() as progress:
                    self.measure_until_valid(decoder, prompt, progress)
            finally:
                if self.sampler:
                    self.sampler.stop()
                self.record_measurement()
        if not self.used.profile:
            decoder.close()
            return
        passes = Passes(self.journal, self.used, self.device, self.nsys, self.entry.period)
        with self.phase("profile_s", "profiling"), after_the_measurement("while profiling"):
            passes.run(decoder, prompt)
            decoder.close()
            del decoder, model, prompt  # a process of its own needs their memory
            passes.run_apart()
        self.journal.update_metrics(self.phase_s)
        passes.finish()

    def new_measurement(self) -> Measurement:
        return Measurement(period=self.entry.period, cost_grows=self.entry.cost_grows)

    # The parts of the story

    def measure_until_valid(self, decoder: Decoder, prompt: Tensor, progress: Callable[[float, str], None]) -> None:
        """Measure; and again, as often as was asked for, where the verdict is invalid and another attempt can help."""
        while True:
            self.measure_passes(decoder, prompt, progress)
            verdict = self.judge()
            if verdict.word != "invalid" or len(self.discarded) == self.used.retry_invalid:
                return
            if not verdict.retry_can_help:
                self.say(f"Not measured again, since it would end the same: {verdict.text}")
                return
            self.discard(verdict)
            self.say(f"Attempt {len(self.discarded)} is measured again. {verdict.text}")
            if self.sampler:
                self.synchronize()
                still = wait_until_quiet(self.sampler.samples, lambda why: progress(0.0, f"waiting: {why}"))
                if still:
                    self.say(f"The card did not become quiet: {'; '.join(still)}. Measuring all the same.")

    def judge(self) -> Verdict:
        found = evidence(self.measurement, self.sampler, self.on_gpu, self.used.precision_pct)
        return judge(found, self.thresholds)

    def discard(self, verdict: Verdict) -> None:
        """Keep the attempt beside the record, and begin a new one."""
        attempt = len(self.discarded) + 1
        self.discarded.append({"attempt": attempt, "passes": self.passes_record()} | verdict.record())
        steps = self.measurement.steps_frame()
        steps.insert(0, "attempt", attempt)
        self.discarded_steps.append(steps)
        self.journal.write_artifact("timing/discarded.json", json.dumps(self.discarded, indent=1))
        table = pd.concat(self.discarded_steps)
        self.journal.write_artifact("timing/discarded-steps.csv", table.to_csv(index=False))
        self.measurement, self.prefill_ms, self.first_token_ms = self.new_measurement(), [], []
        if self.sampler:
            self.sampler.forget_sections()

    def measure_passes(self, decoder: Decoder, prompt: Tensor, progress: Callable[[float, str], None]) -> None:
        used = self.used
        loop: dict[str, Any] = {
            "warmup": used.warmup,
            "repeats": used.repeats,
            "precision_pct": used.precision_pct,
            "max_seconds": used.max_seconds,
            "recent_clocks": self.sampler.recent_sm_clocks if self.sampler else lambda seconds: None,
            "on_section": self.sampler.mark if self.sampler else lambda edge: None,
            "progress": progress,
            "measurement": self.measurement,
        }
        if used.mode == "prefill":
            measure_prefill(lambda: decoder.prefill(prompt), self.device, **loop)
            return
        timer = StepTimer(used.genlen, self.device)
        warm_timer = StepTimer(self.warmup_steps(decoder), self.device)
        measure_decode(
            lambda: timer.time_steps(decoder.step),
            warm_once=lambda: warm_timer.time_steps(decoder.step),
            prepare=lambda: self.time_prefill(decoder, prompt),
            **loop,
        )

    def warmup_steps(self, decoder: Decoder) -> int:
        """Of a warm-up pass: WARMUP_STEPS, or those that take WARMUP_PASS_MS, in whole periods; no more than a pass."""
        genlen, period = self.used.genlen, self.entry.period
        timed = profiled_steps(period)  # as many as show what a step costs
        if genlen <= timed:
            return genlen
        timed_ms = StepTimer(timed, self.device).time_steps(decoder.step).total_ms
        most = whole_periods(WARMUP_STEPS, period)
        return min(genlen, most, timed * math.ceil(WARMUP_PASS_MS / timed_ms))

    def time_prefill(self, decoder: Decoder, prompt: Tensor) -> None:
        """Process the prompt; note the device's time for it and when its first token was on the host."""
        self.synchronize()
        began = time.perf_counter()
        first, ms = time_once(lambda: decoder.prefill(prompt), self.device)
        first.tolist()
        self.first_token_ms.append(1e3 * (time.perf_counter() - began))
        self.prefill_ms.append(ms)

    # The record

    def record_configuration(self) -> None:
        used = self.used
        self.journal.set_used(used.model_dump(mode="json"))
        # what the model does not have, or was not given, is absent; warmup and repeats may stay on auto
        absent = {name for name in ("inner_net", "nsys_args", "checkpoint") if getattr(used, name) is None}
        self.journal.update_params(used.model_dump(exclude=absent))
        record_environment(self.journal, used, self.device)
        log.info("measuring %s with %s", used.run_name, used.as_params())
        for notice in self.notices:
            log.info("notice: %s", notice)

    def open_sampler(self) -> NvmlSampler | None:
        return open_sampler(self.device, self.console)

    def record_measurement(self) -> None:
        """Write down what was measured so far, complete or not."""
        began = time.perf_counter()
        used, measurement, journal = self.used, self.measurement, self.journal
        if used.mode == "prefill":
            metrics = measurement.prefill_metrics(self.workload.tokens_per_pass)
        else:
            metrics = measurement.decode_metrics(self.workload.tokens_per_pass) | self.prefill_metrics()
        if measurement.warmup:
            self.phase_s["warmup_s"] = measurement.warmup_s
        if self.on_gpu:
            metrics["peak_memory_allocated_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
            metrics["peak_memory_reserved_gb"] = torch.cuda.max_memory_reserved(self.device) / 1e9
        if self.sampler:
            metrics |= self.record_telemetry(self.sampler)
        if measurement.repeats and used.retry_invalid:
            metrics["attempts"] = len(self.discarded) + 1
        journal.update_metrics(metrics)
        journal.update_tags(measurement.stop_tags())
        steps = measurement.steps_frame()
        if not steps.empty:
            journal.write_artifact("timing/steps.csv", steps.to_csv(index=False))
        journal.write_artifact("timing/passes.json", json.dumps(self.passes_record(), indent=1))
        record_verdict(journal, self.judge())
        measured_ms = metrics.get("prefill_ms" if used.mode == "prefill" else "decode_step_ms_mean")
        roofline = record_roofline(journal, self.console, self.entry, self.request, used, measured_ms)
        journal.update_metrics(roofline)
        self.phase_s["recording_s"] = time.perf_counter() - began
        journal.update_metrics(self.phase_s)

    def passes_record(self) -> dict[str, object]:
        prefills = {"prefill_ms": self.prefill_ms, "time_to_first_token_ms": self.first_token_ms}
        return {"tokens_per_pass": self.workload.tokens_per_pass} | self.measurement.record() | prefills

    def prefill_metrics(self) -> dict[str, float]:
        """What the prompt's part adds to a decode run: medians over the measured passes."""
        skip, repeats = self.measurement.warmup_count, self.measurement.repeats
        measured = slice(skip, skip + len(repeats))  # a pass that was cut short has a prompt and no repeat
        prefill, first = self.prefill_ms[measured], self.first_token_ms[measured]
        if not prefill:
            return {}
        ms = float(np.median(prefill))
        tokens = self.used.batch * (1 + self.used.genlen)
        whole = [
            1e3 * tokens / (before + repeat.total_ms)
            for before, repeat in zip(prefill, repeats, strict=True)
            if repeat.complete
        ]
        return with_interval("generation_tokens_per_s", whole) | {
            "prefill_ms": ms,
            "prefill_tokens_per_s": 1e3 * self.used.batch * self.used.promptlen / ms,
            "time_to_first_token_ms": float(np.median(first)),
        }

    def record_telemetry(self, sampler: NvmlSampler) -> dict[str, float]:
        frame = sampler.frame()
        metrics = samples.summarise(frame, sampler.sections)
        if "energy_j" in metrics and self.used.mode == "decode" and not self.measurement.interrupted:
            tokens = self.workload.tokens_per_pass * len(self.measurement.complete_repeats)
            metrics["joules_per_token"] = metrics["energy_j"] / tokens
        self.journal.set_series(record_samples(self.journal, sampler, self.device, self.used.run_name))
        return metrics

    # What the person sees meanwhile

    def say(self, text: str) -> None:
        log.info("%s", text)
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """Time a phase that is not measured, and show it."""
        began = time.perf_counter()
        with self.console.status(text):
            yield
        self.phase_s[name] = time.perf_counter() - began
        self.console.print(f"{text}: {self.phase_s[name]:.1f} s", highlight=False)
        log.info("%s: %.3f s", text, self.phase_s[name])

    @contextmanager
    def progress(self) -> Iterator[Callable[[float, str], None]]:
        """A bar that moves between passes only: nothing is drawn while one is timed."""
        columns = (TextColumn("measuring"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, auto_refresh=False, redirect_stdout=False) as bar:
            task = bar.add_task("", total=1.0)

            def show(fraction: float, text: str) -> None:
                end_if_asked()
                log.info("%s", text)
                bar.update(task, completed=fraction, description=text, refresh=True)

            yield show

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def _measure(resolved: Resolved, journal: Journal, console: Console, imports_s: float) -> TTTError | None:
    """Measure, and give the journal its status, whatever ends the run; a failure is returned for the caller."""
    with killed_is_recorded(journal, summary_markdown):
        try:
            Run(resolved, journal, console).measure(imports_s)
            record_end(journal, "ok", None, 0, summary_markdown)
            return None
        except Killed:
            raise
        except BaseException as error:
            # as text: a handler that keeps its records would keep the traceback, and with it the model's memory
            log.error("the run ended early\n%s", traceback.format_exc())
            failure = _failure(error, resolved)
        status = "oom" if isinstance(failure, OutOfMemory) else "error"
        record_end(journal, status, str(failure), failure.exit_code, summary_markdown)
    return failure


def _failure(error: BaseException, resolved: Resolved) -> TTTError:
    """What ``error`` means to the person: a new exception, since the old one's traceback holds the model's memory."""
    if message := out_of_memory_message(error, resolved.used.run_name, resolved.request.device):
        return OutOfMemory(message)
    if isinstance(error, TTTError):
        return RunFailed(str(error))
    return RunFailed(one_line(error))

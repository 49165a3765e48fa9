"""A decode or prefill run: builds, compiles, warms up, measures, judges, records and profiles.

:func:`ttt_mlflow.run.lifecycle.conduct` calls the public methods of :class:`ModelRun` from top to bottom. The record is
written during the run, so an early end of the run keeps what was measured.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from ttt_mlflow import names
from ttt_mlflow.errors import RunFailed, TTTError
from ttt_mlflow.measurement.evidence import evidence
from ttt_mlflow.measurement.loop import Measurement, Observer, Pass, measure_passes
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.measurement.timing import StepTimer, time_once
from ttt_mlflow.measurement.verdict import Verdict, judge
from ttt_mlflow.names import Metrics, Series
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.pass_log import PassLog
from ttt_mlflow.run.attempt import COMPLETE, after_the_measurement
from ttt_mlflow.run.gpu_ceilings import FoundCeilings, find_ceilings
from ttt_mlflow.run.least_memory import least_host_bytes, refuse_beyond_memory
from ttt_mlflow.run.plan import Plan
from ttt_mlflow.run.prepare import Prepared, build, make_ready
from ttt_mlflow.run.profile import Measured, Profiles
from ttt_mlflow.run.recording import (
    Roofline,
    record_optional,
    record_roofline,
    record_samples,
    record_system_series,
    record_verdict,
)
from ttt_mlflow.run.reporter import Reporter, Show
from ttt_mlflow.run.reserve import RoomForPasses
from ttt_mlflow.telemetry import samples
from ttt_mlflow.telemetry.quiet import wait_until_quiet
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.workload import profiled_steps, whole_periods

WARMUP_STEPS = 128  # maximum of a warm-up pass, rounded up to whole periods; it can be shorter than a timed pass
WARMUP_PASS_MS = 250.0  # sufficient length of a warm-up pass; the warm-up can end after each pass


class RunObserver(Observer):
    """Marks the measured sections for the NVML sampler, and shows progress. keep: called after each pass."""

    def __init__(self, sampler: NvmlSampler | None, show: Show, keep: Callable[[], object] = lambda: None) -> None:
        self._sampler, self._show, self._keep = sampler, show, keep

    def section(self, edge: Literal["begin", "end"]) -> None:
        if self._sampler:
            self._sampler.mark(edge)

    def recent_sm_clocks(self, seconds: float) -> Sequence[float] | None:
        return self._sampler.recent_sm_clocks(seconds) if self._sampler else None

    def progress(self, fraction: float, text: str) -> None:
        self._show(fraction, text)

    def passed(self) -> None:
        self._keep()


class ModelRun:
    """One measurement of a model and its results."""

    def __init__(self, plan: Plan, record: Journal, reporter: Reporter) -> None:
        self.plan, self.record, self.reporter = plan, record, reporter
        self.used, self.device = plan.used, plan.device
        self.on_gpu = self.device.type == "cuda"
        self.thresholds = Thresholds.parse(self.used.thresholds)
        self.sampler: NvmlSampler | None = None
        self.prepared: Prepared | None = None
        self.measurement = self._new_measurement()
        self.pass_log = PassLog(record.path, plan.workload, self._tell_not_kept)
        self.discarded: list[dict[str, Any]] = []  # attempts before the last one
        self.discarded_steps: list[pd.DataFrame] = []
        self.discarded_rates: dict[int, float] = {}  # median tokens/s, by attempt
        self.measured_ms: float | None = None  # the mean step; in prefill mode, the prompt
        self.attn_impl: str | None = None  # the attention that the model has chosen
        self.ceilings = FoundCeilings()
        self.roofline = Roofline()
        self.problems: list[str] = []  # of the profiling passes

    def measure(self, sampler: NvmlSampler | None) -> None:
        self.sampler = sampler
        self.record.update_tags({names.TAG_COST_GROWS: str(self.plan.entry.cost_grows).lower()})
        refuse_beyond_memory(self.used.run_name, least_host_bytes(self.plan))
        self.ceilings = find_ceilings(self.plan, self.reporter, sampler)
        if self.on_gpu:
            torch.cuda.empty_cache()  # cached memory of an earlier run in this process does not belong to this run
            torch.cuda.reset_peak_memory_stats(self.device)
        self.prepared = self._prepare()
        with self.reporter.progress("measuring") as show:
            self._measure_until_valid(self.prepared, show)

    def record_measured(self) -> None:
        """Record the numbers first, in reserved space; then what a full disk may cost: steps, samples, pictures."""
        began = time.perf_counter()
        measurement, record = self.measurement, self.record
        metrics = measurement.metrics(self.plan.workload) | self._memory_metrics()
        if self.sampler:
            metrics |= self._telemetry_metrics(self.sampler)
        if measurement.repeats and self.used.retry_invalid:
            metrics[names.ATTEMPTS] = len(self.discarded) + 1
        record.update_metrics(metrics)
        record.update_tags(measurement.stop_tags())
        record_verdict(record, self._judge())
        record.write_artifact(names.ARTIFACT_PASSES, json.dumps(self._passes_record(), indent=1), reserved=True)
        series = self._throughput_series()
        record.set_series(series)
        steps = measurement.steps_frame()
        if not steps.empty:
            table = steps.to_csv(index=False)
            record_optional(record, self.reporter, names.ARTIFACT_STEPS, lambda: table, reserved=True)
        self.pass_log.remove()
        self.measured_ms = metrics.get(names.PREFILL_MS if self.used.mode == "prefill" else names.DECODE_STEP_MS_MEAN)
        self.roofline = record_roofline(record, self.reporter, self.plan, self.measured_ms, self.ceilings)
        if self.sampler:
            system = record_samples(record, self.reporter, self.sampler, self.device, self.used.run_name)
            record_system_series(record, self.reporter, series, system)
        if measurement.warmup:
            self.reporter.phases[names.WARMUP_S] = measurement.warmup_s
        self.reporter.phases[names.RECORDING_S] = time.perf_counter() - began
        record.update_metrics(self.reporter.phases)

    def profile(self) -> None:
        prepared, self.prepared = self.prepared, None
        assert prepared is not None
        if not self.used.profile:
            prepared.decoder.close()
            return
        with self.reporter.phase(names.PROFILE_S, "profiling") as doing, after_the_measurement("while profiling"):
            profiles = Profiles(self.record, self.plan, self._measured(), doing)
            profiles.of_the_decoder(prepared)
            prepared.decoder.close()
            prompt, model = prepared.prompt, prepared.model
            del prepared  # and with it the state
            profiles.of_the_model(prompt, model)
            del prompt, model  # the separate process needs the memory
            profiles.of_a_process()
        self.record.update_metrics(self.reporter.phases)
        self.problems = profiles.problems

    def failure(self) -> TTTError | None:
        return RunFailed(f"{'; '.join(self.problems)}; {COMPLETE}") if self.problems else None

    # Measuring

    def _new_measurement(self) -> Measurement:
        entry = self.plan.entry
        return Measurement(period=entry.period, cost_grows=entry.cost_grows)

    def _prepare(self) -> Prepared:
        with self.reporter.phase(names.SETUP_S, f"building {self.used.model_name}"):
            model, prompt = build(self.plan)
        if hasattr(model, "parameter_count"):
            self.record.update_metrics({names.MODEL_PARAMETERS: model.parameter_count()})
        with self.reporter.phase(names.COMPILE_S, "compiling and preparing the decode step"):
            prepared = Prepared(prompt, make_ready(self.plan, model, prompt), model)
        self.attn_impl = getattr(model, "attn_impl", None)
        if self.attn_impl is not None:
            self.record.update_params({"attn_impl": self.attn_impl})
        return prepared

    def _measure_until_valid(self, prepared: Prepared, show: Show) -> None:
        """Measure. Repeat while the verdict is invalid, attempts are left, and another attempt can help."""
        room = RoomForPasses(self.record, self.reporter, self.used)

        def between_passes(fraction: float, text: str) -> None:
            room.keep_ahead(self.measurement.warmup_count, len(self.measurement.repeats))
            show(fraction, text)

        while True:
            self.pass_log.begin(self.measurement)
            one = self._prefill_pass(prepared) if self.used.mode == "prefill" else self._decode_pass(prepared)
            observer = RunObserver(self.sampler, between_passes, lambda: self.pass_log.add(self.measurement))
            measure_passes(one, self.used.budget, observer, self.measurement)
            verdict = self._judge()
            if verdict.word != "invalid" or len(self.discarded) == self.used.retry_invalid:
                return
            if not verdict.retry_can_help:
                self.reporter.say(f"Not measured again, because the result would be the same: {verdict.text}")
                return
            self._discard(verdict)
            self.reporter.say(f"Attempt {len(self.discarded)} is measured again. {verdict.text}")
            self._wait_until_quiet(show)

    def _prefill_pass(self, prepared: Prepared) -> Pass:
        timer = StepTimer(1, self.device)

        def prefill() -> object:
            return prepared.decoder.prefill(prepared.prompt)

        return Pass(lambda: timer.time_steps(prefill), lambda: timer.time_steps(prefill))

    def _decode_pass(self, prepared: Prepared) -> Pass:
        step = prepared.decoder.step
        timer = StepTimer(self.used.genlen, self.device)
        warm_timer = StepTimer(self._warmup_steps(prepared), self.device)
        return Pass(
            timed=lambda: timer.time_steps(step),
            warmup=lambda: warm_timer.time_steps(step),
            prepare=lambda: self._time_prefill(prepared),
        )

    def _warmup_steps(self, prepared: Prepared) -> int:
        """Steps of a warm-up pass, in whole periods: WARMUP_STEPS, or fewer if WARMUP_PASS_MS or a pass is shorter."""
        genlen, period = self.used.genlen, self.plan.entry.period
        timed = profiled_steps(period)  # enough steps to estimate the time of one
        if genlen <= timed:
            return genlen
        timed_ms = StepTimer(timed, self.device).time_steps(prepared.decoder.step).total_ms
        most = whole_periods(WARMUP_STEPS, period)
        return min(genlen, most, timed * math.ceil(WARMUP_PASS_MS / timed_ms))

    def _time_prefill(self, prepared: Prepared) -> None:
        """Process the prompt. Record its device time and the time until the first token was on the host."""
        self._synchronize()
        began = time.perf_counter()
        first, ms = time_once(lambda: prepared.decoder.prefill(prepared.prompt), self.device)
        first.tolist()
        self.measurement.first_token_ms.append(1e3 * (time.perf_counter() - began))
        self.measurement.prefill_ms.append(ms)

    def _judge(self) -> Verdict:
        found = evidence(self.measurement, self.sampler, self.on_gpu, self.used.precision_pct)
        return judge(found, self.thresholds)

    def _discard(self, verdict: Verdict) -> None:
        """Keep the attempt in the record, and start a new measurement."""
        attempt = len(self.discarded) + 1
        self.discarded.append({"attempt": attempt, "passes": self._passes_record()} | verdict.record())
        if complete := self.measurement.complete_passes:
            ms = float(np.median([one.total_ms for one in complete]))
            self.discarded_rates[attempt] = 1e3 * self.plan.workload.tokens_per_pass / ms
        steps = self.measurement.steps_frame()
        steps.insert(0, "attempt", attempt)
        self.discarded_steps.append(steps)
        attempts, table = json.dumps(self.discarded, indent=1), pd.concat(self.discarded_steps).to_csv(index=False)
        record_optional(self.record, self.reporter, names.ARTIFACT_DISCARDED, lambda: attempts)
        record_optional(self.record, self.reporter, names.ARTIFACT_DISCARDED_STEPS, lambda: table)
        self.measurement = self._new_measurement()
        if self.sampler:
            self.sampler.forget_sections()

    def _wait_until_quiet(self, show: Show) -> None:
        if self.sampler:
            self._synchronize()
            sampler = self.sampler
            still = wait_until_quiet(sampler.samples, lambda why: show(0.0, f"waiting: {why}"), sampler.clock.now_ns)
            if still:
                self.reporter.say(f"The GPU did not become quiet: {'; '.join(still)}. The run measures anyway.")

    def _synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    # Recording

    def _tell_not_kept(self, why: str) -> None:
        self.reporter.warn(
            f"the passes cannot be kept in {self.record.path} as they end ({why}); they are recorded at the end of the "
            "measurement, and are lost if this process is killed before"
        )

    def _throughput_series(self) -> Series:
        """The throughput of each complete pass, and of each discarded attempt its median; steps count from 1."""
        now_ms, tokens = time.time_ns() // 1_000_000, 1e3 * self.plan.workload.tokens_per_pass
        passes = enumerate(self.measurement.repeats, start=1)
        rows = {
            names.PASS_TOKENS_PER_S: [(now_ms, at, tokens / one.total_ms) for at, one in passes if one.complete],
            names.DISCARDED_TOKENS_PER_S: [(now_ms, at, rate) for at, rate in self.discarded_rates.items()],
        }
        return {metric: points for metric, points in rows.items() if points}

    def _memory_metrics(self) -> Metrics:
        if not self.on_gpu:
            return {}
        return {
            names.PEAK_MEMORY_ALLOCATED_GB: torch.cuda.max_memory_allocated(self.device) / 1e9,
            names.PEAK_MEMORY_RESERVED_GB: torch.cuda.max_memory_reserved(self.device) / 1e9,
        }

    def _telemetry_metrics(self, sampler: NvmlSampler) -> Metrics:
        metrics = samples.summarize(sampler.frame(), sampler.sections)
        if names.ENERGY_J in metrics and self.used.mode == "decode" and not self.measurement.interrupted:
            tokens = self.plan.workload.tokens_per_pass * len(self.measurement.complete_passes)
            metrics[names.JOULES_PER_TOKEN] = metrics[names.ENERGY_J] / tokens
        return metrics

    def _passes_record(self) -> dict[str, object]:
        return self.measurement.record(self.plan.workload.tokens_per_pass)

    def _measured(self) -> Measured:
        startup = (names.IMPORTS_S, names.SETUP_S, names.COMPILE_S)
        startup_s = sum(self.reporter.phases.get(metric, 0.0) for metric in startup)
        return Measured(self.measured_ms, self.roofline.parts, startup_s, self.attn_impl)

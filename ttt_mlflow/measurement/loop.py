"""Runs the warm-up, then timed passes until the median is precise enough or the time is used up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from ttt_mlflow import names
from ttt_mlflow.measurement.budget import Budget
from ttt_mlflow.measurement.drift import FALSE_ALARM_RATE, Drift, drift_across, drift_within
from ttt_mlflow.measurement.settling import CLOCK_SECONDS_LEAST, WINDOW, clocks_settled, times_settled
from ttt_mlflow.measurement.statistics import (
    ORDER_LEAST,
    relative_half_width_pct,
    relative_spread_pct,
    step_percentiles,
    with_confidence_interval,
)
from ttt_mlflow.measurement.timing import StepTimes, finished_steps
from ttt_mlflow.names import Metrics, Tags
from ttt_mlflow.workload import Workload

WARMUP_MOST = 1000  # passes
WARMUP_SHARE = 0.2  # of max_seconds
PASSES_LEAST = 2  # even after the time is used up, because one pass has no confidence interval
PASSES_BEFORE_STOP = ORDER_LEAST  # timed passes before a narrow confidence interval may stop the measurement
# the names of the two drift tests in timing/passes.json
DRIFT_METRICS = {
    "drift": (names.DRIFT_PCT, names.DRIFT_P_VALUE),
    "drift_within_pass": (names.DRIFT_WITHIN_PASS_PCT, names.DRIFT_WITHIN_PASS_P_VALUE),
}


class Observer:
    """Observes a measurement. Each method does nothing unless a subclass overrides it."""

    def section(self, edge: Literal["begin", "end"]) -> None:
        """Called at both ends of every timed pass, but not of warm-up passes."""

    def recent_sm_clocks(self, seconds: float) -> Sequence[float] | None:
        """The SM clock in MHz over the last ``seconds``; None if the clock is not sampled."""
        return None

    def progress(self, fraction: float, text: str) -> None:
        """Called between passes with the completed fraction of the measurement and the next action."""

    def passed(self) -> None:
        """Called when a pass has ended and is in the measurement, outside of every section."""


@dataclass(frozen=True)
class Pass:
    """The work that is measured.

    timed: runs a timed pass. warmup: runs a warm-up pass, which may be shorter. prepare: called before each pass,
    untimed; it resets the state and processes the prompt.
    """

    timed: Callable[[], StepTimes]
    warmup: Callable[[], StepTimes]
    prepare: Callable[[], object] = lambda: None


@dataclass
class Measurement:
    """What has been measured so far. The loop fills it in place, so that an interruption loses nothing.

    ended_ms: when each timed pass ended, in ms since 1970 by the host's clock. It tells what was measured at one time.
    prefill_ms, first_token_ms: of the prompt before each decode pass, those of the warm-up first; whoever prepares the
    passes adds them. ``period`` and ``cost_grows`` come from the model: see
    :class:`ttt_mlflow.models.entry.ModelEntry`.
    """

    warmup: list[StepTimes] = field(default_factory=list)
    warmup_s: float = 0.0
    warmup_stop_reason: str | None = None
    warmup_watched_clocks: bool = False
    repeats: list[StepTimes] = field(default_factory=list)
    ended_ms: list[int] = field(default_factory=list)
    stop_reason: str | None = None
    interrupted: bool = False
    prefill_ms: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)
    period: int = 1
    cost_grows: bool = False

    @property
    def warmup_count(self) -> int:
        return len(self.warmup)

    @property
    def complete_passes(self) -> list[StepTimes]:
        return [repeat for repeat in self.repeats if repeat.complete]

    @property
    def relative_half_width_pct(self) -> float | None:
        """Half-width of the confidence interval for the throughput of the complete passes, which do equal work."""
        return relative_half_width_pct([1 / repeat.total_ms for repeat in self.complete_passes])

    def metrics(self, workload: Workload) -> Metrics:
        """Throughput, times and quality of what was measured of ``workload``."""
        tokens = workload.tokens_per_pass
        if workload.mode == "prefill":
            return self.prefill_metrics(tokens)
        return self.decode_metrics(tokens) | self._prompt_metrics(workload)

    def decode_metrics(self, tokens_per_pass: int) -> Metrics:
        """Throughput and step times of the complete passes. ``tokens_per_pass``: decoded tokens of all sequences."""
        complete = self.complete_passes
        rates = [1e3 * tokens_per_pass / repeat.total_ms for repeat in complete]
        steps = np.concatenate([repeat.step_ms for repeat in complete]) if complete else np.empty(0)
        throughput = with_confidence_interval(names.DECODE_TOKENS_PER_S, rates)
        return throughput | step_percentiles(steps) | self._quality_metrics(rates)

    def prefill_metrics(self, tokens_per_pass: int) -> Metrics:
        """Throughput and time of the complete passes. ``tokens_per_pass``: prompt tokens of all sequences."""
        complete = self.complete_passes
        rates = [1e3 * tokens_per_pass / repeat.total_ms for repeat in complete]
        metrics = with_confidence_interval(names.PREFILL_TOKENS_PER_S, rates) | self._quality_metrics(rates)
        if complete:
            metrics[names.PREFILL_MS] = float(np.median([repeat.total_ms for repeat in complete]))
        return metrics

    def _prompt_metrics(self, workload: Workload) -> Metrics:
        """Metrics of the prompt in a decode run: medians over the measured passes."""
        skip, repeats = self.warmup_count, self.repeats
        measured = slice(skip, skip + len(repeats))  # an interrupted pass has a prompt but no timed steps
        prefill, first = self.prefill_ms[measured], self.first_token_ms[measured]
        if not prefill:
            return {}
        ms = float(np.median(prefill))
        tokens = workload.batch * (1 + workload.genlen)
        whole = [
            1e3 * tokens / (before + repeat.total_ms)
            for before, repeat in zip(prefill, repeats, strict=True)
            if repeat.complete
        ]
        return with_confidence_interval(names.GENERATION_TOKENS_PER_S, whole) | {
            names.PREFILL_MS: ms,
            names.PREFILL_TOKENS_PER_S: 1e3 * workload.batch * workload.promptlen / ms,
            names.TIME_TO_FIRST_TOKEN_MS: float(np.median(first)),
        }

    def drifts(self) -> dict[str, Drift]:
        """The drift of the complete passes, by the names of the metrics. A test that cannot be made is absent.

        Drift within a pass is not tested for a model whose cost grows, because its last steps always take longer.
        """
        complete = self.complete_passes
        tested = {"drift": drift_across([repeat.total_ms for repeat in complete])}
        if not self.cost_grows:
            tested["drift_within_pass"] = drift_within([repeat.step_ms for repeat in complete], self.period)
        return {name: drift for name, drift in tested.items() if drift is not None}

    def _quality_metrics(self, rates: list[float]) -> Metrics:
        """Metrics of the measurement's quality: passes, scatter, confidence interval, drift."""
        half_width, spread = relative_half_width_pct(rates), relative_spread_pct(rates)
        metrics: Metrics = {names.WARMUP_PASSES: self.warmup_count} if self.warmup_stop_reason else {}
        if rates:
            metrics[names.MEASURED_PASSES] = len(rates)
        if half_width is not None and spread is not None:
            metrics |= {names.RELATIVE_HALF_WIDTH_PCT: half_width, names.RELATIVE_SPREAD_PCT: spread}
        for name, drift in self.drifts().items():
            pct, p_value = DRIFT_METRICS[name]
            metrics |= {pct: drift.pct} | ({} if drift.p_value is None else {p_value: drift.p_value})
        return metrics

    def stop_tags(self) -> Tags:
        """Why each phase ended. Absent if the phase did not begin or was interrupted."""
        reasons = {names.TAG_WARMUP_STOP_REASON: self.warmup_stop_reason, names.TAG_STOP_REASON: self.stop_reason}
        return {tag: reason for tag, reason in reasons.items() if reason is not None}

    def steps_frame(self) -> pd.DataFrame:
        """Every step of every pass: repeat and step (from 0), ms, and whether the pass is complete."""
        rows = [
            (index, step, ms, repeat.complete)
            for index, repeat in enumerate(self.repeats)
            for step, ms in enumerate(repeat.step_ms.tolist())
        ]
        return pd.DataFrame(rows, columns=["repeat", "step", "ms", "complete"])

    def record(self, tokens_per_pass: int) -> dict[str, object]:
        """The course of the measurement, for the record: the passes with their times, and why both phases ended."""
        return {
            "tokens_per_pass": tokens_per_pass,
            "warmup_passes": self.warmup_count,
            "warmup_s": self.warmup_s,
            "warmup_stop_reason": self.warmup_stop_reason,
            "warmup_watched_clocks": self.warmup_watched_clocks,
            "warmup_total_ms": [times.total_ms for times in self.warmup],
            "repeats": len(self.repeats),
            "stop_reason": self.stop_reason,
            "interrupted": self.interrupted,
            "repeat_complete": [repeat.complete for repeat in self.repeats],
            "repeat_total_ms": [repeat.total_ms for repeat in self.repeats],
            "repeat_wall_ms": [repeat.wall_ms for repeat in self.repeats],
            "repeat_ended_ms": self.ended_ms,
            "drift_false_alarm_rate": FALSE_ALARM_RATE,
            "drift": {name: asdict(drift) | {"found": drift.found} for name, drift in self.drifts().items()},
            "prefill_ms": self.prefill_ms,
            "time_to_first_token_ms": self.first_token_ms,
        }


def measure_passes(one: Pass, budget: Budget, observer: Observer, into: Measurement) -> None:
    """Run the warm-up, then timed passes of ``one`` within ``budget``, and fill ``into`` on the way.

    The warm-up ends when pass times and clocks have settled, after WARMUP_MOST passes, or after WARMUP_SHARE of the
    time. The timed passes end when the confidence interval of their median is narrow (after at least PASSES_BEFORE_STOP
    passes and ``budget.section_s``) or when the time is used up (after at least PASSES_LEAST passes). Counts in
    ``budget`` replace both rules.

    An exception that interrupts a pass is passed on to the caller. The finished steps are kept as an incomplete pass.
    """
    loop = _Loop(one, budget, observer, into, time.perf_counter())
    try:
        loop.warm_up()
        loop.repeat()
    except BaseException:  # includes Killed; the interruption is noted and the exception raised again
        into.interrupted = True
        into.stop_reason = "interrupted"
        raise


@dataclass
class _Loop:
    """The two phases of a measurement and their shared values. Both record the reason for which they ended."""

    one: Pass
    budget: Budget
    observer: Observer
    measurement: Measurement
    began: float

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def warm_up(self) -> None:
        measurement, passes = self.measurement, self.measurement.warmup
        ended_s: list[float] = []  # of each pass
        reason = self._warmup_stop(ended_s)
        while reason is None:
            self.observer.progress(0.0, f"warm-up pass {len(passes) + 1}")
            self.one.prepare()
            passes.append(self.one.warmup())
            measurement.warmup_s = self.elapsed
            ended_s.append(measurement.warmup_s)
            self.observer.passed()
            reason = self._warmup_stop(ended_s)
        measurement.warmup_stop_reason = reason
        self.observer.progress(0.0, f"warm-up ended ({reason}), passes: {len(passes)}, {measurement.warmup_s:.2f} s")

    def _warmup_stop(self, ended_s: list[float]) -> str | None:
        passes, count = self.measurement.warmup, self.budget.warmup
        if count is not None:
            return "count" if len(passes) >= count else None
        if not passes:
            return None
        if self._clocks_settled(ended_s) and times_settled([times.total_ms for times in passes]):
            return "settled"
        if len(passes) >= WARMUP_MOST:
            return "most_passes"
        if self.elapsed >= WARMUP_SHARE * self.budget.max_seconds:
            return "time_share"
        return None

    def _clocks_settled(self, ended_s: list[float]) -> bool:
        """Whether the SM clock was steady over the last WINDOW passes; true if the clock is not sampled."""
        since_window = self.elapsed - (ended_s[-WINDOW - 1] if len(ended_s) > WINDOW else 0.0)
        # excludes the time before the first pass, when the GPU was idle
        mhz = self.observer.recent_sm_clocks(min(self.elapsed, max(since_window, CLOCK_SECONDS_LEAST)))
        self.measurement.warmup_watched_clocks = mhz is not None
        return mhz is None or (self.elapsed >= CLOCK_SECONDS_LEAST and clocks_settled(mhz))

    def repeat(self) -> None:
        done, count = self.measurement.repeats, self.budget.repeats
        half_width: float | None = None
        next_check = PASSES_BEFORE_STOP
        reason: str | None = None
        while reason is None:
            fraction = self.elapsed / self.budget.max_seconds if count is None else len(done) / count
            width = "" if half_width is None else f", confidence interval ±{half_width:.2f} %"
            self.observer.progress(min(1.0, fraction), f"timed pass {len(done) + 1}{width}")
            pass_began = self.elapsed
            self.one.prepare()
            done.append(self._timed_pass())
            self.measurement.ended_ms.append(_now_ms())
            self.observer.passed()
            if count is None and len(done) >= next_check:
                half_width = relative_half_width_pct([1 / repeat.total_ms for repeat in done])
                # the bootstrap takes longer with more passes, so the next check is after 10 % more passes
                next_check = max(len(done) + 1, len(done) * 11 // 10)
            narrow = half_width is not None and half_width < self.budget.precision_pct
            reason = self._timed_stop(narrow, self.elapsed - pass_began)
        self.measurement.stop_reason = reason
        self.observer.progress(1.0, f"timed passes ended ({reason}), passes: {len(done)}")

    def _timed_stop(self, narrow: bool, pass_s: float) -> str | None:
        done, count = len(self.measurement.repeats), self.budget.repeats
        if count is not None:
            return "count" if done >= count else None
        if narrow and sum(timed.total_ms for timed in self.measurement.repeats) >= 1e3 * self.budget.section_s:
            return "interval"
        if done < PASSES_LEAST:
            return None
        if self.elapsed + pass_s > self.budget.max_seconds:  # another pass would end too late
            return "max_seconds"
        return None

    def _timed_pass(self) -> StepTimes:
        self.observer.section("begin")
        try:
            return self.one.timed()
        except BaseException as error:
            finished = finished_steps(error)
            if finished is not None:
                self.measurement.repeats.append(finished)
                self.measurement.ended_ms.append(_now_ms())
            raise
        finally:
            self.observer.section("end")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""Warm up, then repeat a timed pass until its median is known well enough or the time is used up."""

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

WARMUP_MOST = 1000  # passes
WARMUP_SHARE = 0.2  # of max_seconds
REPEATS_LEAST = 2  # even if the time is over: one repeat has no interval
REPEATS_BELIEVED = ORDER_LEAST  # before a narrow interval may end the measurement
# what is tested for drift, by its name in timing/passes.json
DRIFT_METRICS = {
    "drift": (names.DRIFT_PCT, names.DRIFT_P_VALUE),
    "drift_within_pass": (names.DRIFT_WITHIN_PASS_PCT, names.DRIFT_WITHIN_PASS_P_VALUE),
}


class Observer:
    """Watches a measurement. Each method does nothing unless a subclass overrides it."""

    def section(self, edge: Literal["begin", "end"]) -> None:
        """Around every timed pass, never around a warm-up pass."""

    def recent_sm_clocks(self, seconds: float) -> Sequence[float] | None:
        """The SM clock in MHz over the last ``seconds``; None where nobody reads it."""
        return None

    def progress(self, fraction: float, text: str) -> None:
        """Between passes only: the fraction of the measurement that is done, and what comes next."""


@dataclass(frozen=True)
class Pass:
    """What is measured again and again.

    timed: a timed pass. warmup: a pass of the warm-up, which may be shorter. prepare: called before each of them,
    untimed: resets the state, processes the prompt.
    """

    timed: Callable[[], StepTimes]
    warmup: Callable[[], StepTimes]
    prepare: Callable[[], object] = lambda: None


@dataclass
class Measurement:
    """What was measured so far. The loop fills it in place, so that an interruption loses nothing.

    ``period`` and ``cost_grows`` are the model's: see :class:`ttt_mlflow.models.entry.ModelEntry`.
    """

    warmup: list[StepTimes] = field(default_factory=list)
    warmup_s: float = 0.0
    warmup_stop_reason: str | None = None
    warmup_watched_clocks: bool = False
    repeats: list[StepTimes] = field(default_factory=list)
    stop_reason: str | None = None
    interrupted: bool = False
    period: int = 1
    cost_grows: bool = False

    @property
    def warmup_count(self) -> int:
        return len(self.warmup)

    @property
    def complete_repeats(self) -> list[StepTimes]:
        return [repeat for repeat in self.repeats if repeat.complete]

    @property
    def relative_half_width_pct(self) -> float | None:
        """Of the median throughput of the complete repeats, which all do the same work."""
        return relative_half_width_pct([1 / repeat.total_ms for repeat in self.complete_repeats])

    def decode_metrics(self, tokens_per_pass: int) -> Metrics:
        """Throughput and step times of the complete passes, each of ``tokens_per_pass`` tokens of all sequences."""
        complete = self.complete_repeats
        rates = [1e3 * tokens_per_pass / repeat.total_ms for repeat in complete]
        steps = np.concatenate([repeat.step_ms for repeat in complete]) if complete else np.empty(0)
        throughput = with_confidence_interval(names.DECODE_TOKENS_PER_S, rates)
        return throughput | step_percentiles(steps) | self._quality_metrics(rates)

    def prefill_metrics(self, tokens_per_pass: int) -> Metrics:
        """Throughput and time of the complete passes, each a prompt of ``tokens_per_pass`` tokens of all sequences."""
        complete = self.complete_repeats
        rates = [1e3 * tokens_per_pass / repeat.total_ms for repeat in complete]
        metrics = with_confidence_interval(names.PREFILL_TOKENS_PER_S, rates) | self._quality_metrics(rates)
        if complete:
            metrics[names.PREFILL_MS] = float(np.median([repeat.total_ms for repeat in complete]))
        return metrics

    def drifts(self) -> dict[str, Drift]:
        """How the complete repeats drifted, by the metrics' name for it; without what cannot be tested.

        Within a pass, that the steps of a model whose cost grows take longer at its end is no drift.
        """
        complete = self.complete_repeats
        tested = {"drift": drift_across([repeat.total_ms for repeat in complete])}
        if not self.cost_grows:
            tested["drift_within_pass"] = drift_within([repeat.step_ms for repeat in complete], self.period)
        return {name: drift for name, drift in tested.items() if drift is not None}

    def _quality_metrics(self, rates: list[float]) -> Metrics:
        """How far the numbers can be believed: passes, scatter, interval, drift."""
        half_width, spread = relative_half_width_pct(rates), relative_spread_pct(rates)
        metrics: Metrics = {names.WARMUP_PASSES: self.warmup_count} if self.warmup_stop_reason else {}
        if rates:
            metrics[names.MEASURED_PASSES] = len(rates)
        if half_width is not None and spread is not None:
            metrics |= {names.RELATIVE_HALF_WIDTH_PCT: half_width, names.RELATIVE_SPREAD_PCT: spread}
        for name, drift in self.drifts().items():
            pct, p_value = DRIFT_METRICS[name]
            metrics |= {pct: drift.pct, p_value: drift.p_value}
        return metrics

    def stop_tags(self) -> Tags:
        """Why each phase ended; absent where it did not begin or was cut short."""
        reasons = {names.TAG_WARMUP_STOP_REASON: self.warmup_stop_reason, names.TAG_STOP_REASON: self.stop_reason}
        return {tag: reason for tag, reason in reasons.items() if reason is not None}

    def steps_frame(self) -> pd.DataFrame:
        """Every step of every repeat: repeat and step (from 0), ms, and whether the repeat is complete."""
        rows = [
            (index, step, ms, repeat.complete)
            for index, repeat in enumerate(self.repeats)
            for step, ms in enumerate(repeat.step_ms.tolist())
        ]
        return pd.DataFrame(rows, columns=["repeat", "step", "ms", "complete"])

    def record(self) -> dict[str, object]:
        """How the measurement went, for the run's record: the passes, why they ended, each one's times."""
        return {
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
            "drift_false_alarm_rate": FALSE_ALARM_RATE,
            "drift": {name: asdict(drift) | {"found": drift.found} for name, drift in self.drifts().items()},
        }


def measure_passes(one: Pass, budget: Budget, observer: Observer, into: Measurement) -> None:
    """Warm up, then repeat ``one`` within ``budget``, and fill ``into`` as it goes.

    The warm-up ends once pass times and clocks have settled, after WARMUP_MOST passes, or after WARMUP_SHARE of the
    time. The timed passes end once the confidence interval of their median is narrow (after REPEATS_BELIEVED at least)
    or when the time is used up (after REPEATS_LEAST at least). Counts in ``budget`` take the place of both rules.

    Whatever interrupts a pass goes on to the caller; the steps that had finished are kept as an incomplete pass.
    """
    loop = _Loop(one, budget, observer, into, time.perf_counter())
    try:
        loop.warm_up()
        loop.repeat()
    except BaseException:  # hides nothing: noted, a signal's Killed included, and raised again
        into.interrupted = True
        into.stop_reason = "interrupted"
        raise


@dataclass
class _Loop:
    """The two phases of a measurement, with what they share. Both record the reason for which they ended."""

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
        """Whether the SM clock was steady over the last WINDOW passes; true where nobody reads it."""
        since_window = self.elapsed - (ended_s[-WINDOW - 1] if len(ended_s) > WINDOW else 0.0)
        # never from before the first pass, when the GPU was idle
        mhz = self.observer.recent_sm_clocks(min(self.elapsed, max(since_window, CLOCK_SECONDS_LEAST)))
        self.measurement.warmup_watched_clocks = mhz is not None
        return mhz is None or clocks_settled(mhz)

    def repeat(self) -> None:
        done, count = self.measurement.repeats, self.budget.repeats
        half_width: float | None = None
        next_check = REPEATS_BELIEVED
        reason: str | None = None
        while reason is None:
            fraction = self.elapsed / self.budget.max_seconds if count is None else len(done) / count
            width = "" if half_width is None else f", confidence interval ±{half_width:.2f} %"
            self.observer.progress(min(1.0, fraction), f"repeat {len(done) + 1}{width}")
            pass_began = self.elapsed
            self.one.prepare()
            done.append(self._timed_pass())
            if count is None and len(done) >= next_check:
                half_width = relative_half_width_pct([1 / repeat.total_ms for repeat in done])
                # the cost of the bootstrap grows with the passes: look again after a tenth more of them
                next_check = max(len(done) + 1, len(done) * 11 // 10)
            narrow = half_width is not None and half_width < self.budget.precision_pct
            reason = self._repeat_stop(narrow, self.elapsed - pass_began)
        self.measurement.stop_reason = reason
        self.observer.progress(1.0, f"repeats ended ({reason}), passes: {len(done)}")

    def _repeat_stop(self, narrow: bool, pass_s: float) -> str | None:
        done, count = len(self.measurement.repeats), self.budget.repeats
        if count is not None:
            return "count" if done >= count else None
        if narrow:
            return "interval"
        if done < REPEATS_LEAST:
            return None
        if self.elapsed + pass_s > self.budget.max_seconds:  # another one would not end in time
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
            raise
        finally:
            self.observer.section("end")

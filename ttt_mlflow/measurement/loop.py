"""Warm up, then repeat a timed pass until its median is known well enough or the time is used up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
import torch

from ttt_mlflow.measurement.drift import FALSE_ALARM_RATE, Drift, drift_across, drift_within
from ttt_mlflow.measurement.settling import CLOCK_SECONDS_LEAST, WINDOW, clocks_settled, times_settled
from ttt_mlflow.measurement.statistics import (
    ORDER_LEAST,
    percentiles,
    relative_half_width_pct,
    relative_spread_pct,
    with_interval,
)
from ttt_mlflow.measurement.timing import StepTimer, StepTimes, finished_steps

WARMUP_MOST = 1000  # passes
WARMUP_SHARE = 0.2  # of max_seconds
REPEATS_LEAST = 2  # even if the time is over: one repeat has no interval
REPEATS_BELIEVED = ORDER_LEAST  # before an interval may end the measurement

OnePass = Callable[[], StepTimes]
Prepare = Callable[[], object]
OnSection = Callable[[str], object]  # "begin" or "end"
Progress = Callable[[float, str], object]  # the fraction that is done, and what comes next
RecentClocks = Callable[[float], Sequence[float] | None]  # the SM clock in MHz over the last seconds; None: not known


def _nothing(*_: object) -> None:
    """Stands for a callback that nobody asked for."""


def _no_clocks(seconds: float) -> None:
    """Stands for a sampler where there is none."""


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

    def decode_metrics(self, tokens_per_pass: int) -> dict[str, float]:
        """Throughput and step times of the complete repeats, each one of ``tokens_per_pass`` of all sequences."""
        complete = self.complete_repeats
        rates = [1e3 * tokens_per_pass / repeat.total_ms for repeat in complete]
        steps = np.concatenate([repeat.step_ms for repeat in complete]) if complete else np.empty(0)
        return with_interval("decode_tokens_per_s", rates) | percentiles(steps) | self._quality_metrics(rates)

    def prefill_metrics(self, tokens_per_pass: int) -> dict[str, float]:
        """Throughput and time of the complete repeats, each one a prompt of ``tokens_per_pass`` of all sequences."""
        complete = self.complete_repeats
        rates = [1e3 * tokens_per_pass / repeat.total_ms for repeat in complete]
        metrics = with_interval("prefill_tokens_per_s", rates) | self._quality_metrics(rates)
        if complete:
            metrics["prefill_ms"] = float(np.median([repeat.total_ms for repeat in complete]))
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

    def _quality_metrics(self, rates: list[float]) -> dict[str, float]:
        """How far the numbers can be believed: passes, scatter, interval, drift."""
        half_width, spread = relative_half_width_pct(rates), relative_spread_pct(rates)
        metrics: dict[str, float] = {"warmup_passes": self.warmup_count} if self.warmup_stop_reason else {}
        if rates:
            metrics["measured_passes"] = len(rates)
        if half_width is not None and spread is not None:
            metrics |= {"relative_half_width_pct": half_width, "relative_spread_pct": spread}
        for name, drift in self.drifts().items():
            metrics |= {f"{name}_pct": drift.pct, f"{name}_p_value": drift.p_value}
        return metrics

    def stop_tags(self) -> dict[str, str]:
        """Why each phase ended, under its public name; absent where it did not begin or was cut short."""
        reasons = {"ttt.warmup_stop_reason": self.warmup_stop_reason, "ttt.stop_reason": self.stop_reason}
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


def measure_decode(
    decode_once: OnePass,
    *,
    warmup: int | None,
    repeats: int | None,
    precision_pct: float,
    max_seconds: float,
    recent_clocks: RecentClocks = _no_clocks,
    warm_once: OnePass | None = None,
    prepare: Prepare = _nothing,
    on_section: OnSection = _nothing,
    progress: Progress = _nothing,
    measurement: Measurement | None = None,
) -> Measurement:
    """Measure ``decode_once``, a timed pass that returns its :class:`StepTimes`.

    prepare: called before every pass, untimed: resets the state, processes the prompt.
    warmup: untimed passes; None: until pass times and clocks have settled, but no pass after WARMUP_MOST or
        WARMUP_SHARE of the time.
    repeats: timed passes, however long they take; None: until the median's interval is narrow (REPEATS_BELIEVED at
        least) or the time is used up (REPEATS_LEAST at least).
    precision_pct: the interval is narrow when its half-width is under this share of the median.
    max_seconds: time for warm-up, preparation and timed passes.
    recent_clocks: the SM clock over the last seconds, for the end of the warm-up.
    warm_once: a pass of the warm-up, where that may be shorter than ``decode_once``.
    on_section: called with "begin" and "end" around every timed pass, never around a warm-up pass.
    progress: called between passes only.
    measurement: filled in place. Whatever interrupts a pass goes on to the caller; the steps that had
        finished are kept as an incomplete repeat.
    """
    measurement = Measurement() if measurement is None else measurement
    warm_once = warm_once or decode_once
    began = time.perf_counter()
    loop = _Loop(decode_once, prepare, on_section, progress, max_seconds, measurement, began)
    try:
        loop.warm_up(warm_once, warmup, recent_clocks)
        loop.repeat(repeats, precision_pct)
    except BaseException:  # hides nothing: noted, a signal's Killed included, and raised again
        measurement.interrupted = True
        measurement.stop_reason = "interrupted"
        raise
    return measurement


def measure_prefill(
    prefill_once: Callable[[], object],
    device: torch.device,
    *,
    warmup: int | None,
    repeats: int | None,
    precision_pct: float,
    max_seconds: float,
    recent_clocks: RecentClocks = _no_clocks,
    prepare: Prepare = _nothing,
    on_section: OnSection = _nothing,
    progress: Progress = _nothing,
    measurement: Measurement | None = None,
) -> Measurement:
    """Measure ``prefill_once``, which processes one prompt on ``device``, as :func:`measure_decode` does."""
    timer = StepTimer(1, device)
    return measure_decode(
        lambda: timer.time_steps(prefill_once),
        warmup=warmup,
        repeats=repeats,
        precision_pct=precision_pct,
        max_seconds=max_seconds,
        recent_clocks=recent_clocks,
        prepare=prepare,
        on_section=on_section,
        progress=progress,
        measurement=measurement,
    )


@dataclass
class _Loop:
    """The two phases of a measurement, with what they share. Both name the reason for which they ended."""

    one_pass: OnePass
    prepare: Prepare
    on_section: OnSection
    progress: Progress
    max_seconds: float
    measurement: Measurement
    began: float

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def warm_up(self, warm_once: OnePass, count: int | None, recent_clocks: RecentClocks) -> None:
        measurement, passes = self.measurement, self.measurement.warmup
        ended_s: list[float] = []  # of each pass
        reason = self._warmup_stop(count, recent_clocks, ended_s)
        while reason is None:
            self.progress(0.0, f"warm-up pass {len(passes) + 1}")
            self.prepare()
            passes.append(warm_once())
            measurement.warmup_s = self.elapsed
            ended_s.append(measurement.warmup_s)
            reason = self._warmup_stop(count, recent_clocks, ended_s)
        measurement.warmup_stop_reason = reason
        self.progress(0.0, f"warm-up ended ({reason}), passes: {len(passes)}, {measurement.warmup_s:.2f} s")

    def _warmup_stop(self, count: int | None, recent_clocks: RecentClocks, ended_s: list[float]) -> str | None:
        passes = self.measurement.warmup
        if count is not None:
            return "count" if len(passes) >= count else None
        if not passes:
            return None
        if self._clocks_settled(recent_clocks, ended_s) and times_settled([times.total_ms for times in passes]):
            return "settled"
        if len(passes) >= WARMUP_MOST:
            return "most_passes"
        if self.elapsed >= WARMUP_SHARE * self.max_seconds:
            return "time_share"
        return None

    def _clocks_settled(self, recent_clocks: RecentClocks, ended_s: list[float]) -> bool:
        """Whether the SM clock stood over the last WINDOW passes; true where nobody watches it."""
        since_window = self.elapsed - (ended_s[-WINDOW - 1] if len(ended_s) > WINDOW else 0.0)
        # never from before the first pass, when the GPU was idle
        mhz = recent_clocks(min(self.elapsed, max(since_window, CLOCK_SECONDS_LEAST)))
        self.measurement.warmup_watched_clocks = mhz is not None
        return mhz is None or clocks_settled(mhz)

    def repeat(self, count: int | None, precision_pct: float) -> None:
        done = self.measurement.repeats
        half_width: float | None = None
        next_check = REPEATS_BELIEVED
        reason: str | None = None
        while reason is None:
            fraction = self.elapsed / self.max_seconds if count is None else len(done) / count
            width = "" if half_width is None else f", interval ±{half_width:.2f} %"
            self.progress(min(1.0, fraction), f"repeat {len(done) + 1}{width}")
            pass_began = self.elapsed
            self.prepare()
            done.append(self._timed_pass())
            if count is None and len(done) >= next_check:
                half_width = relative_half_width_pct([1 / repeat.total_ms for repeat in done])
                # the bootstrap's cost grows with the repeats: look again after a tenth more of them
                next_check = max(len(done) + 1, len(done) * 11 // 10)
            narrow = half_width is not None and half_width < precision_pct
            reason = self._repeat_stop(count, narrow, self.elapsed - pass_began)
        self.measurement.stop_reason = reason
        self.progress(1.0, f"repeats ended ({reason}), passes: {len(done)}")

    def _repeat_stop(self, count: int | None, narrow: bool, pass_s: float) -> str | None:
        if count is not None:
            return "count" if len(self.measurement.repeats) >= count else None
        if narrow:
            return "interval"
        if len(self.measurement.repeats) < REPEATS_LEAST:
            return None
        if self.elapsed + pass_s > self.max_seconds:  # another one would not end in time
            return "max_seconds"
        return None

    def _timed_pass(self) -> StepTimes:
        self.on_section("begin")
        try:
            return self.one_pass()
        except BaseException as error:
            finished = finished_steps(error)
            if finished is not None:
                self.measurement.repeats.append(finished)
            raise
        finally:
            self.on_section("end")

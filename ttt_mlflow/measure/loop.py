"""Warm up, then repeat a timed pass until its median is known well enough or the time is used up."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from ttt_mlflow.measure.statistics import (
    percentiles,
    relative_half_width_pct,
    relative_spread_pct,
    with_interval,
)
from ttt_mlflow.measure.timing import StepTimer, StepTimes, finished_steps

WARMUP_MOST = 5  # passes
WARMUP_SHARE = 0.2  # of max_seconds
SETTLED_PCT = 1.0  # two passes in a row that differ by less have settled
REPEATS_LEAST = 2  # even if the time is over: one repeat has no interval
REPEATS_BELIEVED = 5  # before an interval may end the measurement
HALF_WIDTH_PCT = 0.5  # of the median: narrow enough

OnePass = Callable[[], StepTimes]
Prepare = Callable[[], object]
OnSection = Callable[[str], object]  # "begin" or "end"
Progress = Callable[[float, str], object]  # the fraction that is done, and what comes next


def _nothing(*_: object) -> None:
    """Stands for a callback that nobody asked for."""


@dataclass
class Measurement:
    """What was measured so far. The loop fills it in place, so that an interruption loses nothing."""

    warmup: list[StepTimes] = field(default_factory=list)
    warmup_s: float = 0.0
    warmup_stop_reason: str | None = None
    repeats: list[StepTimes] = field(default_factory=list)
    stop_reason: str | None = None
    interrupted: bool = False

    @property
    def warmup_count(self) -> int:
        return len(self.warmup)

    @property
    def complete_repeats(self) -> list[StepTimes]:
        return [repeat for repeat in self.repeats if repeat.complete]

    def decode_metrics(self, batch: int) -> dict[str, float]:
        """Throughput and step times of the complete repeats; ``batch`` tokens a step."""
        complete = self.complete_repeats
        rates = [1e3 * batch * len(repeat.step_ms) / repeat.total_ms for repeat in complete]
        steps = np.concatenate([repeat.step_ms for repeat in complete]) if complete else np.empty(0)
        return with_interval("decode_tokens_per_s", rates) | percentiles(steps) | _spread(rates)

    def prefill_metrics(self, batch: int, promptlen: int) -> dict[str, float]:
        """Throughput and time of the complete repeats, each one prompt of ``promptlen`` tokens a sequence."""
        complete = self.complete_repeats
        rates = [1e3 * batch * promptlen / repeat.total_ms for repeat in complete]
        metrics = with_interval("prefill_tokens_per_s", rates) | _spread(rates)
        if complete:
            metrics["prefill_ms"] = float(np.median([repeat.total_ms for repeat in complete]))
        return metrics

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
            "warmup_total_ms": [times.total_ms for times in self.warmup],
            "repeats": len(self.repeats),
            "stop_reason": self.stop_reason,
            "interrupted": self.interrupted,
            "repeat_complete": [repeat.complete for repeat in self.repeats],
            "repeat_total_ms": [repeat.total_ms for repeat in self.repeats],
            "repeat_wall_ms": [repeat.wall_ms for repeat in self.repeats],
        }


def measure_decode(
    decode_once: OnePass,
    *,
    warmup: int | None,
    repeats: int | None,
    max_seconds: float,
    warm_once: OnePass | None = None,
    prepare: Prepare = _nothing,
    on_section: OnSection = _nothing,
    progress: Progress = _nothing,
    measurement: Measurement | None = None,
) -> Measurement:
    """Measure ``decode_once``, a timed pass that returns its :class:`StepTimes`.

    prepare: called before every pass, untimed: resets the state, processes the prompt.
    warmup: untimed passes; None: until two in a row agree, at most WARMUP_MOST or WARMUP_SHARE of the time.
    repeats: timed passes, however long they take; None: until the median's interval is narrow or the time is
        used up, but two at least.
    max_seconds: time for warm-up, preparation and timed passes.
    warm_once: a pass of the warm-up, where that may be shorter than ``decode_once``.
    on_section: called with "begin" and "end" around every timed pass, never around a warm-up pass.
    progress: called between passes only.
    measurement: filled in place. Whatever interrupts a pass goes on to the caller; the steps that had
        finished are kept as an incomplete repeat.
    """
    measurement = Measurement() if measurement is None else measurement
    warm_once = warm_once or decode_once
    began = time.perf_counter()
    loop = _Loop(decode_once, warm_once, prepare, on_section, progress, max_seconds, measurement, began)
    try:
        loop.warm_up(warmup)
        loop.repeat(repeats)
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
    max_seconds: float,
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
        max_seconds=max_seconds,
        prepare=prepare,
        on_section=on_section,
        progress=progress,
        measurement=measurement,
    )


def settled(passes: list[StepTimes]) -> bool:
    """Whether the last two passes took the same time, within SETTLED_PCT."""
    if len(passes) < 2:
        return False
    before, last = passes[-2].total_ms, passes[-1].total_ms
    return abs(last - before) <= SETTLED_PCT / 100 * before


@dataclass
class _Loop:
    """The two phases of a measurement, with what they share. Both name the reason for which they ended."""

    one_pass: OnePass
    warm_pass: OnePass
    prepare: Prepare
    on_section: OnSection
    progress: Progress
    max_seconds: float
    measurement: Measurement
    began: float

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def warm_up(self, count: int | None) -> None:
        passes = self.measurement.warmup
        reason = self._warmup_stop(count)
        while reason is None:
            self.progress(0.0, f"warm-up pass {len(passes) + 1}")
            self.prepare()
            passes.append(self.warm_pass())
            self.measurement.warmup_s = self.elapsed
            reason = self._warmup_stop(count)
        self.measurement.warmup_stop_reason = reason

    def _warmup_stop(self, count: int | None) -> str | None:
        passes = self.measurement.warmup
        if count is not None:
            return "count" if len(passes) >= count else None
        if settled(passes):
            return "settled"
        if len(passes) >= WARMUP_MOST:
            return "most_passes"
        if passes and self.elapsed >= WARMUP_SHARE * self.max_seconds:
            return "time_share"
        return None

    def repeat(self, count: int | None) -> None:
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
            reason = self._repeat_stop(count, half_width, self.elapsed - pass_began)
        self.measurement.stop_reason = reason
        self.progress(1.0, f"repeats done: {len(done)}")

    def _repeat_stop(self, count: int | None, half_width: float | None, pass_s: float) -> str | None:
        if count is not None:
            return "count" if len(self.measurement.repeats) >= count else None
        if half_width is not None and half_width < HALF_WIDTH_PCT:
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


def _spread(rates: list[float]) -> dict[str, float]:
    spread = relative_spread_pct(rates)
    return {} if spread is None else {"relative_spread_pct": spread}

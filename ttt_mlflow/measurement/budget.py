"""The length of a measurement, and the precision at which it stops."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The limits of one measurement.

    warmup: number of untimed passes; None: until pass times and clocks have settled.
    repeats: number of timed passes, regardless of the time; None: until the confidence interval is narrow or the time
    is used up.
    precision_pct: the confidence interval is narrow if its half-width is below this percentage of the median.
    max_seconds: time for warm-up, preparation and timed passes together.
    section_s: a narrow confidence interval ends the timed passes only once they have taken this long together.
    """

    warmup: int | None
    repeats: int | None
    precision_pct: float
    max_seconds: float
    section_s: float = 0.0

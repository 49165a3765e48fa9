"""How long a measurement may take, and when it is precise enough."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The limits of one measurement.

    warmup: untimed passes; None: until pass times and clocks have settled.
    repeats: timed passes, however long they take; None: until the confidence interval is narrow or the time is used up.
    precision_pct: the confidence interval is narrow when its half-width is below this share of the median, in percent.
    max_seconds: time for warm-up, preparation and timed passes together.
    """

    warmup: int | None
    repeats: int | None
    precision_pct: float
    max_seconds: float

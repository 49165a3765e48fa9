"""From where on a measurement counts as disturbed: the verdict's thresholds, their defaults and how to set them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from typing import Self


def _threshold(default: float, meaning: str) -> float:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Thresholds:
    """What a valid run may have at most, or has to have at least. The unit is the end of each name."""

    section_s: float = _threshold(0.5, "least time that was measured, all passes together")
    half_width_pct: float = _threshold(
        1.0, "widest half-width of the median's interval; precision_pct where that is more"
    )
    drift_pct: float = _threshold(0.5, "largest drift from the first third of the passes to the last that is no fault")
    event_pct: float = _threshold(1.0, "largest share of the section under a thermal slowdown or a power brake")
    clock_drop_pct: float = _threshold(
        3.0, "how far the SM clock may fall below its steady state without the power cap"
    )
    clock_drop_share_pct: float = _threshold(1.0, "largest share of the samples that may be below that")
    other_process_sm_pct: float = _threshold(1.0, "largest SM utilization of another process")

    @classmethod
    def parse(cls, settings: Iterable[str]) -> Self:
        """The defaults but for ``settings``, each as ``name=value``; ValueError, in words, for what is none."""
        values: dict[str, float] = {}
        for setting in settings:
            name, equals, text = (part.strip() for part in setting.partition("="))
            if not equals or name not in NAMES:
                raise ValueError(f"{setting}: not name=value with one of the names {', '.join(NAMES)}")
            if name in values:
                raise ValueError(f"{name} is set twice")
            try:
                values[name] = float(text)
            except ValueError:
                raise ValueError(f"{setting}: not a number") from None
            if not (isfinite(values[name]) and values[name] >= 0):
                raise ValueError(f"{setting}: not a number from 0")
        return replace(cls(), **values)

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


NAMES: tuple[str, ...] = tuple(each.name for each in fields(Thresholds))
MEANINGS: dict[str, str] = {each.name: each.metadata["meaning"] for each in fields(Thresholds)}

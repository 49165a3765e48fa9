"""The thresholds of the verdict, their defaults and how to set them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Self

from ttt_mlflow.numerals import fraction


def _threshold(default: float, meaning: str) -> float:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Thresholds:
    """Upper or lower limits for a valid run. The end of each name is its unit."""

    section_s: float = _threshold(0.5, "minimum measured time, all passes together")
    half_width_pct: float = _threshold(
        1.0, "maximum half-width of the median's confidence interval; precision_pct where that is larger"
    )
    drift_pct: float = _threshold(0.5, "maximum drift from the first third of the passes to the last")
    event_pct: float = _threshold(1.0, "maximum share of the section under a thermal slowdown or a power brake")
    clock_drop_pct: float = _threshold(
        3.0, "maximum drop of the SM clock below its steady state that no power cap explains"
    )
    clock_drop_share_pct: float = _threshold(1.0, "maximum share of the samples below that limit")
    other_process_sm_pct: float = _threshold(1.0, "maximum SM utilization of another process")

    @classmethod
    def parse(cls, settings: Iterable[str]) -> Self:
        """The defaults, changed by ``settings``, each ``name=value``. Raises ValueError with a message for bad ones."""
        values: dict[str, float] = {}
        for setting in settings:
            name, equals, text = (part.strip() for part in setting.partition("="))
            if not equals or name not in NAMES:
                raise ValueError(f"{setting}: not name=value with one of the names {', '.join(NAMES)}")
            if name in values:
                raise ValueError(f"{name} is set twice")
            try:
                values[name] = fraction(text)
            except ValueError:
                raise ValueError(f"{setting}: not a number of at least 0") from None
        return replace(cls(), **values)

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


NAMES: tuple[str, ...] = tuple(each.name for each in fields(Thresholds))
MEANINGS: dict[str, str] = {each.name: each.metadata["meaning"] for each in fields(Thresholds)}

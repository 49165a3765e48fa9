"""The quantities of a report: which metric, in which unit, and how a cell of a table says it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ttt_mlflow import names
from ttt_mlflow.names import Estimate, Metric
from ttt_mlflow.record.rounding import recorded_places
from ttt_mlflow.report.results import GENLEN, Cell, Grid, Run, Series
from ttt_mlflow.report.text import figures


@dataclass(frozen=True)
class Quantity:
    """One table. name: its id. short: the heading of a column. unit: of the numbers,
    which are the metric's times ``scale``.
    """

    name: str
    title: str
    short: str
    metric: Metric
    unit: str
    scale: float = 1.0

    def value(self, cell: Cell | None) -> float | None:
        found = cell.value(self.metric) if cell else None
        return None if found is None else found * self.scale

    def interval(self, cell: Cell | None) -> tuple[float, float] | None:
        """The ends of the 95 % confidence interval; None for a quantity without one."""
        if cell is None or not isinstance(self.metric, Estimate):
            return None
        low, high = cell.value(self.metric.ci_low), cell.value(self.metric.ci_high)
        return None if low is None or high is None else (low * self.scale, high * self.scale)

    def places(self, cell: Cell | None) -> tuple[int, int, int] | None:
        """The decimal places that a record has of the value and of the ends of its interval; None: six digits each."""
        value, ends = self.value(cell), self.interval(cell)
        return None if value is None or ends is None else recorded_places(value, *ends)

    def text(self, cell: Cell | None) -> str:
        """The number with four digits, but no more than a record has; empty if there is none."""
        value, places = self.value(cell), self.places(cell)
        return "" if value is None else figures(value, places[0] if places else None)

    def interval_text(self, cell: Cell | None) -> str:
        """For example ``[67,634, 67,646]``; empty for a quantity without a confidence interval."""
        ends = self.interval(cell)
        _, *places = self.places(cell) or (None, None, None)
        return f"[{', '.join(map(figures, ends, places))}]" if ends else ""

    @property
    def heading(self) -> str:
        return f"{self.title}, {self.unit}"


MEMORY = Quantity("memory", "Peak memory", "peak GB", names.PEAK_MEMORY_ALLOCATED_GB, "GB")
ENERGY = Quantity("energy", "Energy per token", "mJ/token", names.JOULES_PER_TOKEN, "mJ", 1e3)
ROOFLINE = Quantity("roofline", "Share of the roofline", "roofline %", names.ROOFLINE_PCT, "%")
ACCURACY = (
    Quantity(
        "differing",
        "Greedy tokens that differ from float32",
        "tokens differ %",
        names.ACCURACY_DIFFERING_TOKENS_PCT,
        "%",
    ),
    Quantity(
        "against_pytorch",
        "Differing tokens against plain PyTorch in the same dtype",
        "of PyTorch's",
        names.ACCURACY_RATIO,
        "times",
    ),
    Quantity("logits", "Logits' error against float32", "logits' error", names.ACCURACY_LOGITS_ERROR, "relative"),
)
QUANTITIES: dict[str, tuple[Quantity, ...]] = {
    "decode": (
        Quantity("throughput", "Decode throughput", "tokens/s", names.DECODE_TOKENS_PER_S, "tokens/s"),
        Quantity("step", "Decode step, median", "p50 ms", names.DECODE_STEP_MS_P50, "ms"),
        Quantity("step_p99", "Decode step, 99th percentile", "p99 ms", names.DECODE_STEP_MS_P99, "ms"),
        *(MEMORY, ENERGY, ROOFLINE, *ACCURACY),
    ),
    "prefill": (
        Quantity("throughput", "Prefill throughput", "tokens/s", names.PREFILL_TOKENS_PER_S, "tokens/s"),
        Quantity("prefill", "Prefill time", "prefill ms", names.PREFILL_MS, "ms"),
        Quantity("first_token", "Time to first token", "first token ms", names.TIME_TO_FIRST_TOKEN_MS, "ms"),
        *(MEMORY, ENERGY, ROOFLINE, *ACCURACY),
    ),
}


def of_kind(quantities: Iterable[Quantity], run: Run) -> list[Quantity | None]:
    """The quantities of those names for the kind of ``run``; None for one that this kind does not have."""
    own = {one.name: one for one in QUANTITIES[run.place.kind]}
    return [own.get(one.name) for one in quantities]


def throughput_of(grid: Grid) -> Quantity:
    return QUANTITIES[grid.kind][0]


def measured_quantities(grid: Grid) -> list[Quantity]:
    """The throughput, and the other quantities that at least one run has."""
    first, *others = QUANTITIES[grid.kind]
    cells = [cell for _, _, cell in grid.cells()]
    return [first, *(one for one in others if any(one.value(cell) is not None for cell in cells))]


@dataclass(frozen=True)
class Speedup:
    """How many times as fast as the baseline. low, high: from the ends of both confidence intervals, if there are.

    decimals: of the factor as text. One configuration in two sets differs by per mille, two models by far more.
    """

    factor: float
    low: float | None = None
    high: float | None = None
    decimals: int = 2

    def __str__(self) -> str:
        return f"{self.factor:.{self.decimals}f}×"


def speedup(grid: Grid, series: Series, batch: int) -> Speedup | None:
    """The throughput of a cell divided by that of its baseline; None if one is invalid or was not measured.

    The ends are those of the passes alone: runs of one configuration differ by more than that.
    """
    quantity, other = throughput_of(grid), grid.baseline_of(series)
    cell, baseline = series.cells.get(batch), other.cells.get(batch) if other else None
    if other is None or cell is None or baseline is None or "invalid" in (cell.state, baseline.state):
        return None
    if grid.against is None and series.facts_at(batch).get(GENLEN) != other.facts_at(batch).get(GENLEN):
        return None  # another configuration
    value, base = quantity.value(cell), quantity.value(baseline)
    if value is None or not base:
        return None
    ends, base_ends = quantity.interval(cell), quantity.interval(baseline)
    decimals = 2 if grid.against else 3
    if ends is None or base_ends is None or not base_ends[0]:
        return Speedup(value / base, decimals=decimals)
    return Speedup(value / base, ends[0] / base_ends[1], ends[1] / base_ends[0], decimals)


def baseline_text(grid: Grid, sets: Sequence[str]) -> str:
    """To what the speed-ups of a grid are relative."""
    return grid.against.label if grid.against else f"the same configuration of {sets[0]}"


# instead of speed-ups to a row of which no number can be compared
NO_SPEEDUPS = "None, because it has no number that is not invalid"

# what a cell without a number says
WORDS = {
    "oom": "out of memory",
    "predicted_oom": "out of memory, predicted",
    "failed": "failed",
    "killed": "stopped",
    "skipped": "skipped",
    "running": "running",
    "missing": "",
}


def cell_text(quantity: Quantity, cell: Cell | None) -> str:
    """The cell of a table of text. The number of an invalid run is in parentheses, that of an unjudged one has a ``?``.

    Empty for what was not run, and for what the run did not measure.
    """
    if cell is None:
        return ""
    if not cell.is_measured:
        return WORDS[cell.state]
    text = quantity.text(cell)
    return text and (f"({text})" if cell.state == "invalid" else f"{text}?" if cell.state == "unjudged" else text)


def legend(cells: Sequence[Cell]) -> list[str]:
    """What the signs in tables of text mean, for the states that there are."""
    there = {cell.state for cell in cells}
    lines = []
    if "invalid" in there:
        lines.append("(…): the measurement is invalid; the table of runs has the reason.")
    if "unjudged" in there:
        lines.append("…?: not judged, because data for a verdict is missing.")
    if "predicted_oom" in there:
        lines.append("Out of memory, predicted: not tried, because the predicted memory is more than the GPU has.")
    return lines

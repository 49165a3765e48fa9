"""The configuration with the highest throughput under limits: ``decode_step_ms_p99 < 10 and batch >= 512``."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.report.columns import THROUGHPUT, Column, column, refuse_unknown
from ttt_mlflow.report.results import Results
from ttt_mlflow.report.text import number

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "=": operator.eq,
}
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
LIMIT = re.compile(rf"\s*([\w./-]+?)\s*(<=|<|>=|>|=)\s*({NUMBER})\s*%?\s*", re.IGNORECASE | re.ASCII)
LIKE_THIS = "write it like decode_step_ms_p99 < 10, several joined by and"


@dataclass(frozen=True)
class Limit:
    """One condition on a number of a run."""

    column: Column
    comparison: str
    bound: float

    def __str__(self) -> str:
        return f"{self.column.name} {self.comparison} {self.bound:.15g}"

    def value(self, row: RunRow) -> float | None:
        """The run's number; None if it has none."""
        value = self.column.value(row)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def holds(self, row: RunRow) -> bool:
        value = self.value(row)
        return value is not None and COMPARISONS[self.comparison](value, self.bound)


@dataclass(frozen=True)
class Best:
    """The answer for one kind of run. run: the fastest valid run within the limits; None if there is none.

    lines: the answer in words, and what a reader must know of it.
    """

    kind: str
    limits: tuple[Limit, ...]
    run: RunRow | None
    lines: tuple[str, ...]


def parse_limits(text: str) -> tuple[Limit, ...]:
    """The conditions in ``text``. Raises BadInput for anything else."""
    limits = []
    for part in re.split(r"\band\b", text, flags=re.IGNORECASE):
        match = LIMIT.fullmatch(part)
        if match is None:
            raise BadInput(f"best={text}: {part.strip() or 'nothing'!r} is no limit; {LIKE_THIS}")
        limits.append(Limit(column(match[1]), match[2], float(match[3])))
    return tuple(limits)


def best_of(results: Results, limits: Sequence[Limit]) -> list[Best]:
    """The best run of each kind of run that there is. Raises BadInput for a name that no run and no catalog has."""
    refuse_unknown([limit.column for limit in limits], "best", [run.row for run in results.runs])
    return [_best(results, grid.kind, tuple(limits)) for grid in results.grids]


def _best(results: Results, kind: str, limits: tuple[Limit, ...]) -> Best:
    runs = [run for run in results.runs if run.row.kind == kind]
    valid = [run.row for run in runs if run.state == "valid"]
    best = max((row for row in valid if _is_within(row, limits)), key=_throughput, default=None)
    told = f"Best {kind} under {' and '.join(map(str, limits))}"
    lines = [f"{told}: {_described(results, best, limits) if best else _none(results, valid, limits)}"]
    doubtful = [run for run in runs if run.state in ("invalid", "unjudged") and _is_within(run.row, limits)]
    faster = [run for run in doubtful if best is None or _throughput(run.row) > _throughput(best)]
    if faster:
        first = max(faster, key=lambda run: _throughput(run.row))
        lines.append(
            f"Not counted, because not valid: {len(faster):,} faster within the limit, of which the fastest is "
            f"{_described(results, first.row, limits)} ({first.state})"
        )
    for limit in limits:
        unknown = sum(limit.value(row) is None for row in valid)
        if unknown:
            lines.append(f"Not counted: valid runs without {limit.column.name}: {unknown:,}")
    return Best(kind, limits, best, tuple(lines))


def _is_within(row: RunRow, limits: Sequence[Limit]) -> bool:
    return all(limit.holds(row) for limit in limits)


def _none(results: Results, valid: Sequence[RunRow], limits: Sequence[Limit]) -> str:
    """That there is none, and what comes nearest to a single limit."""
    known = [(value, row) for row in valid if (value := limits[0].value(row)) is not None]
    if len(limits) > 1 or not known:
        return "no valid run"
    value, nearest = min(known, key=lambda one: abs(one[0] - limits[0].bound))
    return f"no valid run; the nearest has {number(value)}: {nearest.run.name}, run {results.id_of(nearest)}"


def _throughput(row: RunRow) -> float:
    return row.metrics.get(THROUGHPUT[row.kind].name, 0.0)


def _described(results: Results, row: RunRow, limits: Sequence[Limit]) -> str:
    values = [f"{limit.column.name} {number(value)}" for limit in limits if (value := limit.value(row)) is not None]
    return f"{row.run.name}, {number(_throughput(row))} tokens/s, {', '.join(values)}, run {results.id_of(row)}"

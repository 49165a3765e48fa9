"""The yardstick of a sweep: one run that each of its sessions measures first, so that sessions can be compared."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ttt_mlflow.app.sweep.check import Checked
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.app.sweep.measured import Alike, Measured
from ttt_mlflow.report.columns import THROUGHPUT
from ttt_mlflow.report.text import number

YARDSTICK = "yardstick"
AGREE_PCT = 1.0  # by which the highest may exceed the lowest
# a run that gave no value, by its status
WITHOUT_A_NUMBER = {"killed": "stopped", "running": "stopped", "oom": "out of memory"}


@dataclass
class Yardstick:
    """The run, and what its measurements gave, the oldest first. fault: why that of this session gave nothing."""

    cell: Cell
    checked: Checked
    runs: list[Measured] = field(default_factory=list)
    fault: str | None = None

    @property
    def key(self) -> str:
        """As that of a cell, but of no cell of the grid, which may have the same run."""
        return f"{YARDSTICK}-{self.cell.key}"

    def remember(self, runs: Iterable[Measured], alike: Alike) -> None:
        """Take those of ``runs``, the oldest first, that earlier sessions measured of it in the same way."""
        self.runs = [run for run in runs if run.cell == self.key and alike.fits(run, self.checked)]

    def end(self, run: Measured | None, reason: str | None) -> None:
        """run: what this session measured, complete or not. reason: why there is nothing."""
        if run is not None:
            self.runs.append(run)
        self.fault = None if run and self._value(run) is not None else reason or (run.why if run else None) or "failed"

    @property
    def spread_pct(self) -> float | None:
        """By how much the highest exceeds the lowest of those that are not invalid; None for fewer than two."""
        values = [value for run in self.runs if (value := self._value(run)) is not None and run.verdict != "invalid"]
        return 100 * (max(values) / min(values) - 1) if len(values) > 1 else None

    @property
    def disagrees(self) -> bool:
        return self.spread_pct is not None and self.spread_pct > AGREE_PCT

    @property
    def text(self) -> str:
        """The values of all sessions, and whether they agree, in one line."""
        values, without = [], []
        for run in self.runs:
            if (value := self._value(run)) is None:
                without.append(WITHOUT_A_NUMBER.get(run.status, run.status))
            else:
                values.append(f"({number(value)})" if run.verdict == "invalid" else number(value))
        told = [f"{', '.join(values)} tokens/s"] if values else []
        line = f"Yardstick, {self.cell.name}: {', '.join([*told, *without]) or 'not measured yet'}"
        if self.fault:
            line += f"; nothing in this session: {self.fault}"
        spread = self.spread_pct
        if spread is None:
            return line
        if self.disagrees:
            return f"{line}; the sessions differ by {number(spread)} %: their numbers are not on one scale"
        return f"{line}; the sessions agree within {number(spread)} %"

    def _value(self, run: Measured) -> float | None:
        if run.status != "ok":
            return None
        return run.metrics.get(THROUGHPUT[self.cell.config.kind].name) or None

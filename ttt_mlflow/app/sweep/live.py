"""Shows a sweep while it goes on: a table on a terminal, else a line for each run that has ended."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live as RichLive
from rich.text import Text

from ttt_mlflow.app.sweep.board import IN_WORDS, Board, CellState, in_minutes
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.text import counted, number, printable, text_table

GB = 1e9


class Live:
    """The progress on standard error, until the block ends. has_table: whether a terminal gets the table too."""

    def __init__(self, board: Board, width: int, has_table: bool) -> None:
        self._board, self._width = board, width
        self._console = Console(stderr=True)
        has_table = has_table and sys.stderr.isatty()
        self._table = RichLive(console=self._console, auto_refresh=False, transient=True) if has_table else None

    def __enter__(self) -> Self:
        if self._table:
            self._table.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._table:
            self._table.stop()

    def show(self) -> None:
        """Draw the table as it is now."""
        if self._table:
            columns, rows = self._board.table()
            parts = [text_table(columns, rows, columns[1:]), "", f"  {self._line()}"]
            self._table.update(Text(_shown("\n".join(parts))), refresh=True)

    def tell(self, one: CellState) -> None:
        """Print what became of a run."""
        number_done = len(self._board.states) - self._board.count("missing", "running")
        what = one.text if one.state == "done" else IN_WORDS[one.state]
        facts = [f"{what} tokens/s" if one.throughput and one.state == "done" else what]
        if one.run and one.run.verdict and one.state == "done":
            facts.append(one.run.verdict)
        if one.took_s is not None:
            facts.append(f"{in_minutes(one.took_s)} on {one.place}")
        reason = f": {one.why}" if one.why else ""
        line = f"{number_done} of {len(self._board.states)}, {one.cell.name}: {', '.join(facts)}{reason}{self._left()}"
        self._console.print(_shown(line), markup=False, highlight=False, soft_wrap=True)

    def _line(self) -> str:
        running = [f"{one.cell.name} on {one.place}" for one in self._board.states if one.state == "running"]
        return f"{self._board.headline()}{self._left()}{'; now ' + ', '.join(running) if running else ''}"

    def _left(self) -> str:
        left = self._board.seconds_left(self._width)
        return f"; about {in_minutes(left)} left" if left else ""


def dry_run_text(board: Board, order: Sequence[CellState]) -> str:
    """The runs in the order in which they would be measured, each with its predicted memory and time, and the rest."""
    rest = [one for one in board.states if one not in order]
    rows = [[str(place), *_predicted(one)] for place, one in enumerate(order, 1)]
    rows += [["", *_predicted(one)] for one in rest]
    columns = ["", "run", "memory", "time", ""]
    known = [one.checked.prediction.seconds for one in order]
    total = sum(seconds for seconds in known if seconds is not None)
    said = f", {in_minutes(total)} one after the other" if known and None not in known else ""
    lines = [text_table(columns, rows, ("", "memory", "time")), "", f"  {counted(len(order), 'run')} to measure{said}"]
    lines.append("  All that are asked for; which of them are there already is seen when they are to be measured")
    return "\n".join([*lines, f"  ttt.sweep_id {board.sweep_id}"])


def _predicted(one: CellState) -> list[str]:
    found = one.checked.prediction
    memory = "" if found.peak_bytes is None else f"{number(found.peak_bytes / GB)} GB"
    seconds = "" if found.seconds is None else in_minutes(found.seconds)
    note = f"alone on the host: {one.alone}" if one.alone else ""
    return [one.cell.name, memory, seconds, note if one.state == "missing" else f"{IN_WORDS[one.state]}: {one.why}"]


def _shown(text: str) -> str:
    return printable(without_secrets(text), "\n")

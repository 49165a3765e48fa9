"""What became of each cell of a sweep, and the table that shows it: live, as the parent's description, at the end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ttt_mlflow import names
from ttt_mlflow.app.sweep.check import Checked
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.app.sweep.measured import Alike, Measured
from ttt_mlflow.app.sweep.yardstick import Yardstick
from ttt_mlflow.config import RunConfig
from ttt_mlflow.measurement.method import METHOD
from ttt_mlflow.numerals import significant
from ttt_mlflow.record.sweep_file import SweepCell, SweepFile, SweepState
from ttt_mlflow.report.text import counted, escaped, markdown_table, number, text_table
from ttt_mlflow.telemetry.code import code_id

IN_WORDS: Mapping[SweepState, str] = {
    "done": "measured",
    "oom": "out of memory",
    "predicted_oom": "predicted not to fit",
    "skipped": "skipped",
    "failed": "failed",
    "killed": "stopped",
    "running": "being measured",
    "missing": "to do",
}
OF_STATUS: Mapping[str, SweepState] = {"ok": "done", "oom": "oom", "killed": "killed", "running": "killed"}
ROW = ("model_name", "inner_net")  # always a part of a row's name
MARK = "†"  # beside a number of a GPU that another process uses, or that differs from its siblings
GIVEN_UP: tuple[SweepState, ...] = ("failed", "killed")


@dataclass
class CellState:
    """One cell, and what is known of it. run: its last measurement that counts. took_s: of this process's own.

    alone: why it is measured alone on the host; None if others may be measured beside it.
    """

    cell: Cell
    checked: Checked
    state: SweepState = "missing"
    reason: str | None = None
    run: Measured | None = None
    place: str | None = None
    began: float | None = None
    took_s: float | None = None
    alone: str | None = None

    def begin(self, place: str) -> None:
        if self.began is None or self.state != "running":
            self.began = time.monotonic()
        self.state, self.place, self.reason = "running", place, None

    def end(self, run: Measured | None, reason: str | None) -> None:
        """run: what was measured, complete or not. reason: why there is nothing."""
        if self.began is not None:
            self.took_s = time.monotonic() - self.began
        self.run = run
        self.state = OF_STATUS.get(run.status, "failed") if run else "failed"
        self.reason = reason or (run.why if run and self.state != "done" else None)

    @property
    def why(self) -> str:
        """The reason, to stand behind the words for the state, which it may begin with; empty if there is none."""
        return (self.reason or "").removeprefix(f"{IN_WORDS[self.state]}: ")

    @property
    def throughput(self) -> str | None:
        """The measured tokens/s with the half-width of the confidence interval, such as ``67,641 ±0.1 %``."""
        metric = names.PREFILL_TOKENS_PER_S if self.cell.config.mode == "prefill" else names.DECODE_TOKENS_PER_S
        found = self.run.metrics if self.run else {}
        value = found.get(metric.name)
        if value is None:
            return None
        low, high = found.get(metric.ci_low.name), found.get(metric.ci_high.name)
        if low is None or high is None or not value:
            return number(value)
        half = 50 * (high - low) / value
        digits = 2 if half < 1 else 3  # ±1 % must not stand where 1.03 was too wide and 1 is the limit
        return f"{number(value)} ±{significant(half, digits)} %"

    @property
    def text(self) -> str:
        """What stands in the table. An invalid number is in parentheses."""
        if self.state == "missing":
            return ""
        if self.state != "done":
            return IN_WORDS[self.state]
        measured = self.throughput or IN_WORDS["done"]
        return f"({measured})" if self.run and self.run.verdict == "invalid" else measured


@dataclass
class Board:
    """All cells of a sweep, in the order in which they were asked for.

    marked: {UUID of a GPU without NVML's prefix: what distinguishes it from the others}. remarks: what is known of the
    host's GPUs, one line each.
    """

    sweep_id: str
    states: list[CellState]
    marked: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    yardstick: Yardstick | None = None
    by_key: dict[str, CellState] = field(init=False)

    def __post_init__(self) -> None:
        self.by_key = {one.cell.key: one for one in self.states}

    def count(self, *states: SweepState) -> int:
        return sum(one.state in states for one in self.states)

    def seconds_left(self, width: int) -> float | None:
        """Seconds until all is measured, at ``width`` cells at once; None as long as nothing tells.

        A cell is expected to take what is predicted for it, as far off as the predictions for those that were measured
        were in the mean. Without a prediction, it is expected to take their mean.
        """
        took = [one.took_s for one in self.states if one.took_s is not None]
        mean = sum(took) / len(took) if took else None
        known = [
            (one.took_s, predicted)
            for one in self.states
            if one.took_s is not None and (predicted := one.checked.prediction.seconds)
        ]
        longer = sum(seconds for seconds, _ in known) / sum(predicted for _, predicted in known) if known else 1.0
        left = 0.0
        beside = max(1, width)
        for one in self.states:
            if one.state not in ("missing", "running"):
                continue
            predicted = one.checked.prediction.seconds
            expected = longer * predicted if predicted else mean
            if expected is None:
                return None
            spent = time.monotonic() - one.began if one.state == "running" and one.began is not None else 0.0
            left += max(0.0, expected - spent) / (1 if one.alone else beside)
        return left

    def headline(self) -> str:
        """For example ``21 runs: 12 measured (1 invalid), 2 out of memory, 7 to do``."""
        parts = []
        for state, words in IN_WORDS.items():
            if not (found := self.count(state)):
                continue
            invalid = sum(one.state == state == "done" and _is_invalid(one) for one in self.states)
            parts.append(f"{found} {words}{f' ({invalid} invalid)' if invalid else ''}")
        return f"{counted(len(self.states), 'run')}: {', '.join(parts)}"

    @property
    def gpu_names(self) -> list[str]:
        """The GPUs on which the runs of the table were measured."""
        return list(dict.fromkeys(one.run.gpu_name for one in self.states if one.run))

    def notes(self) -> Iterator[str]:
        """What the table does not show, one line each: why a cell has no number, and what makes numbers differ."""
        if len(self.gpu_names) > 1:
            yield f"Measured on different GPUs, named beside each number: {', '.join(self.gpu_names)}"
        elif self.gpu_names:
            yield f"Measured on: {self.gpu_names[0]}"
        if self.yardstick:
            yield self.yardstick.text
        methods = {one.run.tags.get(names.TAG_METHOD.name, "") for one in self.states if one.run}
        codes = {one.run.tags.get(names.TAG_CODE_ID.name, "") for one in self.states if one.run}
        if len(methods) > 1 or len(codes) > 1:
            yield "Measured with different versions of the code: a repetition with --redo all measures all with one"
        used = {_uuid(one) for one in self.states if one.state == "done"}
        yield from self.remarks
        yield from (f"{MARK} {text}" for uuid, text in self.marked.items() if uuid in used)
        for one in self.states:
            if one.state not in ("done", "missing", "running") and one.reason:
                yield f"{one.cell.name}: {IN_WORDS[one.state]}: {one.why}"
            elif _is_invalid(one) and one.run and one.run.why:
                yield f"{one.cell.name}: invalid: {one.run.why}"
        yield from self._what_to_do()

    def _what_to_do(self) -> Iterator[str]:
        """How invalid runs are measured again, once nothing else is left."""
        invalid = [one.run for one in self.states if _is_invalid(one) and one.run]
        if not invalid or self.count("missing", "running"):
            return
        are, them = ("1 run is", "it") if len(invalid) == 1 else (f"{len(invalid)} runs are", "them")
        yield f"{are} invalid: the same command with --redo invalid measures {them} again"
        for reason, does in (("wide_interval", "narrow it"), ("short_section", "make it longer")):
            found = [
                one.cell.config for one in self.states if _is_invalid(one) and one.run and reason in (one.run.why or "")
            ]
            ways = ["more time (max_seconds)"] if any(config.repeats is None for config in found) else []
            ways += ["more passes (repeats)"] if any(config.repeats is not None for config in found) else []
            ways += ["longer passes (genlen)"] if any(config.mode == "decode" for config in found) else []
            if found:
                yield f"{reason}: {' or '.join(ways)} {does}, as a sweep of its own"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The columns and the rows: a row for each model and inner net, a column for each batch."""
        batches = sorted({one.cell.config.batch for one in self.states})
        body = []
        for name, states in rows_of(self.states):
            cells = {one.cell.config.batch: self._text(one) for one in states}
            body.append([name, *(cells.get(batch, "") for batch in batches)])
        return ["tokens/s", *(f"batch {batch}" for batch in batches)], body

    def _text(self, one: CellState) -> str:
        """What stands in the table, with what distinguishes the GPU."""
        text = one.text
        if len(self.gpu_names) > 1 and one.state == "done" and one.run:
            text = f"{text}, {one.run.gpu_name}"
        return f"{text} {MARK}" if one.state == "done" and _uuid(one) in self.marked else text

    def text(self) -> str:
        """The table and its notes for a terminal."""
        columns, rows = self.table()
        return "\n".join([text_table(columns, rows, columns[1:]), "", f"  {self.headline()}", *self._indented()])

    def markdown(self, more: str | None = None) -> str:
        """The same as the description of an MLflow run. more: a sentence after the headline."""
        columns, rows = self.table()
        first = f"**{self.headline()}**{f'; {more}' if more else ''}"
        lines = [first, "", *markdown_table(columns, rows, texts=1), ""]
        lines.append("In parentheses: the verdict is invalid. Empty: not measured yet.")
        return "\n".join([*lines, "", *(f"- {escaped(note)}" for note in self.notes())])

    def file(self) -> SweepFile:
        return SweepFile(sweep_id=self.sweep_id, cells=tuple(map(_in_file, self.states)))

    def _indented(self) -> list[str]:
        return [f"  {note}" for note in self.notes()]


def mark_done(board: Board, runs: Sequence[Measured], redo: str, gpu_names: Sequence[str]) -> None:
    """Note which cells are done: by the newest of their runs of this code, this GPU model and this way of measuring.

    redo: none; invalid: those with that verdict are missing; all: all are.
    """
    alike = Alike(code_id(), gpu_names, str(METHOD))
    for run in runs:  # the oldest first
        one = board.by_key.get(run.cell)
        if one is None or one.state == "skipped" or not alike.fits(run, one.checked):
            continue
        one.end(run, None)
        if redo == "all" or (redo == "invalid" and run.verdict == "invalid"):
            one.run, one.state, one.reason = None, "missing", None


def rows_of(states: Sequence[CellState]) -> list[tuple[str, list[CellState]]]:
    """The rows of the table, each a name and its cells: a row for each model and inner net.

    Other parameters tell rows apart where not all cells were asked for with the same. How long is measured does not,
    nor the number of decode steps of a model whose steps cost the same at any context, unless a batch would be there
    twice.
    """
    fields = [name for name in type(states[0].cell.config).model_fields if name not in (*ROW, "batch")]
    # what was chosen for a model, as whether it is compiled, tells no row from another
    varying = [name for name in fields if len({getattr(one.cell.config, name) for one in states}) > 1]
    what = [name for name in varying if name not in RunConfig.how_measured]
    rows = []
    for row in _grouped(states, what, any_steps=True):
        if len({one.cell.config.batch for one in row}) == len(row):
            rows.append((_row_name(row, what), row))
        else:
            rows += [(_row_name(part, varying), part) for part in _grouped(row, varying, any_steps=False)]
    return rows


def _grouped(states: Sequence[CellState], fields: Sequence[str], any_steps: bool) -> list[list[CellState]]:
    """Cells of the same values. any_steps: whatever their decode steps, where those change no step's cost."""
    groups: dict[tuple[Any, ...], list[CellState]] = {}
    for one in states:
        joined = names.GENLEN.name if any_steps and one.checked.cost_grows is False else None
        key = tuple(_value(one, name) for name in (*ROW, *fields) if name != joined)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _row_name(row: Sequence[CellState], fields: Sequence[str]) -> str:
    model, net = (_value(row[0], name) for name in ROW)
    parts = [str(model).rpartition("/")[2], *([str(net)] if net else [])]
    for name in fields:
        values = {value for one in row if (value := _value(one, name)) is not None}
        if values:
            parts.append(f"{name}={min(values)}" + (f" to {max(values)}" if len(values) > 1 else ""))
    return " ".join(parts)


def _value(one: CellState, name: str) -> Any:
    """A parameter as it is used, where that is known."""
    return getattr(one.checked.used or one.cell.config, name)


def _uuid(one: CellState) -> str | None:
    """The GPU of a cell's run, without NVML's prefix."""
    return one.run.tags.get(names.TAG_GPU_UUID.name) if one.run else None


def _is_invalid(one: CellState) -> bool:
    return one.state == "done" and one.run is not None and one.run.verdict == "invalid"


def _in_file(one: CellState) -> SweepCell:
    run = one.run
    return SweepCell(
        key=one.cell.key,
        config=(one.checked.used or one.cell.config).model_dump(mode="json"),
        state=one.state,
        reason=one.reason,
        run_id=run.run_id if run else None,
        record=str(run.record) if run and run.record else None,
        gpu=run.gpu_name if run else None,
    )


def in_minutes(seconds: float) -> str:
    """A time for a person: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""The change between two profiled steps, kernel by kernel.

Kernels are matched by name and part. The changes of all kernels and of the idle time add up to the change of the step.
Two profiles have no scatter to test against, so a small difference of one kernel may be chance.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ttt_mlflow.errors import BadInput, RunFailed
from ttt_mlflow.names import (
    ARTIFACT_NSYS_KERNELS,
    ARTIFACT_NSYS_RANGES,
    ARTIFACT_TORCH_KERNELS_CSV,
    ARTIFACT_TORCH_STEP,
    Artifact,
)
from ttt_mlflow.numerals import significant
from ttt_mlflow.profilers.nsys_tables import read_kernel_summary
from ttt_mlflow.record.recorded_run import RecordedRun
from ttt_mlflow.report.profile_tables import slowed_pct
from ttt_mlflow.report.style import COLORS, GRAY, figure_png
from ttt_mlflow.report.text import escaped, markdown_table, number, run_label, shortened, spreadsheet_cell, text_table
from ttt_mlflow.workload import STEP

STEP_RANGE = re.compile(rf":?{re.escape(STEP)}\d+")  # the named range of one step in the table of Nsight Systems
AGAIN = "profile that configuration again"
IDLE = "nothing running"
SHOWN = 20  # rows in the tables for people and in the chart; all other rows are combined into one
COLUMNS = ("kernel", "part", "", "A ms", "B ms", "change ms", "of the change")
SLOWER, FASTER = COLORS[1], COLORS[0]

Word = Literal["appeared", "vanished", "slower", "faster", "same"]


@dataclass(frozen=True)
class ProfiledStep:
    """One profile of a run: ms per step of each kernel, by name and part, and of the idle time."""

    label: str  # of the run
    device: str
    step_ms: float
    idle_ms: float
    kernels: dict[tuple[str, str], float]
    mode: str | None = None  # "decode": a step; "prefill": a prompt
    measured_ms: float | None = None  # without a profiler
    profiler: str = "torch"  # or "nsys"

    @property
    def slowed_pct(self) -> float | None:
        """By how much the profiler lengthened the step, in percent; None if that is little."""
        return slowed_pct(self.step_ms, self.measured_ms) if self.measured_ms else None


@dataclass(frozen=True)
class Change:
    """The change of one kernel in one part. ms per step, None where it does not occur; the share in percent."""

    name: str
    part: str
    word: Word
    a_ms: float | None
    b_ms: float | None
    change_ms: float
    share_pct: float | None  # of the step's change; None if the step's time did not change


@dataclass(frozen=True)
class ProfileDiff:
    """The changes from A to B, the largest first. They add up to the change of the step."""

    a: ProfiledStep
    b: ProfiledStep
    changes: list[Change]

    @property
    def change_ms(self) -> float:
        return sum(change.change_ms for change in self.changes)


def read_profile(run: RecordedRun) -> ProfiledStep:
    """The profile of ``run``: PyTorch's, else the kernels that Nsight Systems counted. BadInput if there is neither."""
    if run.artifact(ARTIFACT_TORCH_STEP) is not None:
        return read_torch_profile(run)
    if run.artifact(ARTIFACT_NSYS_KERNELS) is not None:
        return read_nsys_profile(run)
    raise BadInput(
        f"{run_label(run)}: no profile to compare (it has neither {ARTIFACT_TORCH_STEP.path} nor "
        f"{ARTIFACT_NSYS_KERNELS.path}); measure it with `ttt-mlflow run --profile torch`"
    )


def read_profiles(a: RecordedRun, b: RecordedRun) -> tuple[ProfiledStep, ProfiledStep]:
    """Profiles of one kind of both runs: PyTorch's, else those of Nsight Systems. BadInput if there are none."""
    for artifact, read in ((ARTIFACT_TORCH_STEP, read_torch_profile), (ARTIFACT_NSYS_KERNELS, read_nsys_profile)):
        if all(run.artifact(artifact) is not None for run in (a, b)):
            return read(a), read(b)
    one, other = read_profile(a), read_profile(b)  # says which run has no profile
    raise BadInput(
        f"{one.label} has a profile of {one.profiler}, {other.label} one of {other.profiler}: "
        "measure both with the same profiler, `ttt-mlflow run --profile torch`"
    )


def read_torch_profile(run: RecordedRun) -> ProfiledStep:
    """The profile that PyTorch's profiler recorded in ``run``."""
    label = run_label(run)
    try:
        step = json.loads(_text(run, ARTIFACT_TORCH_STEP))
        rows = list(csv.DictReader(io.StringIO(_text(run, ARTIFACT_TORCH_KERNELS_CSV))))
        kernels = {(row["name"], row["part"]): float(row["ms_per_step"]) for row in rows}
        device, step_ms, idle_ms = step["device"], step["step_ms"], step["idle_ms"]
        return ProfiledStep(label, device, step_ms, idle_ms, kernels, step.get("mode"), step.get("measured_ms"))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{label}: its profile cannot be read ({type(error).__name__}: {error}); {AGAIN}") from None


def read_nsys_profile(run: RecordedRun) -> ProfiledStep:
    """The kernels that Nsight Systems counted in ``run``, per step. It knows neither parts nor idle time.

    So the sum of the kernels stands for the step.
    """
    label = run_label(run)
    try:
        ranges = csv.DictReader(io.StringIO(_text(run, ARTIFACT_NSYS_RANGES)))
        steps = sum(int(row["Instances"]) for row in ranges if STEP_RANGE.fullmatch(row["Range"]))
        kernels: dict[tuple[str, str], float] = {}
        for kernel in read_kernel_summary(_text(run, ARTIFACT_NSYS_KERNELS)):
            key = (kernel.name, "")
            kernels[key] = kernels.get(key, 0.0) + kernel.total_ns / 1e6 / steps
        if not kernels:
            raise ValueError("no kernels")
    except (ValueError, KeyError, TypeError, ZeroDivisionError, RunFailed) as error:
        raise BadInput(f"{label}: its profile cannot be read ({type(error).__name__}: {error}); {AGAIN}") from None
    step_ms = sum(kernels.values())
    return ProfiledStep(label, "cuda", step_ms, 0.0, kernels, run.params.get("mode"), profiler="nsys")


def _text(run: RecordedRun, artifact: Artifact) -> str:
    path = run.artifact(artifact)
    if path is None:
        raise ValueError(f"{artifact.path} is missing")
    return path.read_text()


def profile_diff(a: ProfiledStep, b: ProfiledStep) -> ProfileDiff:
    """The change from ``a`` to ``b``. Raises :class:`BadInput` if they cannot be compared."""
    if a.device != b.device:
        raise BadInput(
            f"{a.label} was profiled on {a.device}, {b.label} on {b.device}: compare two profiles of the same device"
        )
    if a.profiler != b.profiler:
        raise BadInput(f"{a.label} was profiled with {a.profiler}, {b.label} with {b.profiler}: compare one kind")
    if None not in (a.mode, b.mode) and a.mode != b.mode:
        raise BadInput(
            f"{a.label} was profiled in mode={a.mode}, {b.label} in mode={b.mode}: compare two profiles of one mode"
        )
    total = (sum(b.kernels.values()) + b.idle_ms) - (sum(a.kernels.values()) + a.idle_ms)
    changes = [_change(*key, a.kernels.get(key), b.kernels.get(key), total) for key in {**a.kernels, **b.kernels}]
    changes.append(_change(IDLE, "", a.idle_ms, b.idle_ms, total))
    return ProfileDiff(a, b, sorted(changes, key=lambda change: -abs(change.change_ms)))


def _change(name: str, part: str, a_ms: float | None, b_ms: float | None, total: float) -> Change:
    change = (b_ms or 0.0) - (a_ms or 0.0)
    word: Word = "slower" if change > 0 else "faster" if change < 0 else "same"
    if a_ms is None:
        word = "appeared"
    elif b_ms is None:
        word = "vanished"
    return Change(name, part, word, a_ms, b_ms, change, 100 * change / total if total else None)


# Output formats


def diff_csv(diff: ProfileDiff) -> str:
    """One row for each kernel and part. A cell is empty where the kernel does not occur."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Change)], lineterminator="\n")
    writer.writeheader()
    rows = [asdict(change) for change in diff.changes]
    writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def diff_markdown(diff: ProfileDiff) -> str:
    labels = [f"A: {escaped(diff.a.label)}", f"B: {escaped(diff.b.label)}"]
    paragraphs = [f"**{diff_title(diff)}**", *map(escaped, _measured(diff)), *labels]
    lines = [line for paragraph in paragraphs for line in (paragraph, "")]
    return "\n".join([*lines, *markdown_table(COLUMNS, _rows(diff), texts=3), ""])


def diff_text(diff: ProfileDiff) -> str:
    """The difference as text for a terminal."""
    table = text_table(COLUMNS, _rows(diff), COLUMNS[3:])
    return "\n".join([f"A: {diff.a.label}", f"B: {diff.b.label}", diff_title(diff), *_measured(diff), table])


def diff_rows(diff: ProfileDiff) -> dict[str, list[Any]]:
    """The table for a page: its columns and rows."""
    return {"columns": list(COLUMNS), "rows": [list(row) for row in _rows(diff)]}


def diff_title(diff: ProfileDiff) -> str:
    """For example ``a profiled step changed from 2 ms to 1.8 ms: -0.2 ms, -10.0 %``."""
    what = "a profiled step" if diff.a.profiler == "torch" else "the kernels of a profiled step"
    return f"{what} changed from {_became(diff.a.step_ms, diff.b.step_ms, diff.change_ms)}"


def _measured(diff: ProfileDiff) -> list[str]:
    """The change without a profiler. The profiler itself may lengthen a step considerably."""
    lines = []
    a_ms, b_ms = diff.a.measured_ms, diff.b.measured_ms
    if a_ms is not None and b_ms is not None:
        lines.append(f"the step measured without a profiler changed from {_became(a_ms, b_ms, b_ms - a_ms)}")
    for name, one in (("A", diff.a), ("B", diff.b)):
        if one.slowed_pct is not None:
            lines.append(
                f"the profiler made {name} {one.slowed_pct:.0f} % longer: its idle time is not the measured idle time"
            )
    return lines


def _became(a_ms: float, b_ms: float, change_ms: float) -> str:
    percent = f", {100 * change_ms / a_ms:+.1f} %" if a_ms else ""
    return f"{number(a_ms)} ms to {number(b_ms)} ms: {significant(change_ms, 4, '+')} ms{percent}"


def diff_png(diff: ProfileDiff) -> bytes:
    """Bars in ms per step. Bars to the right became slower or are new; bars to the left became faster or are gone."""
    from matplotlib.figure import Figure

    shown, others = _shown(diff)
    bars = [(f"{shortened(one.name)} ({one.part})" if one.part else one.name, one) for one in shown]
    labels: list[tuple[str, float, Word]] = [
        (label if len(label) <= 70 else f"…{label[-69:]}", one.change_ms, one.word) for label, one in bars
    ]
    if others:
        labels.append((f"{len(others)} others", sum(one.change_ms for one in others), "same"))
    figure = Figure(figsize=(11, 1.8 + 0.32 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for place, (_, ms, word) in enumerate(labels):
        axes.barh(place, ms, color=GRAY if word == "same" else SLOWER if ms > 0 else FASTER)
        note = significant(ms, 3, "+") + (f", {word}" if word in ("appeared", "vanished") else "")
        axes.annotate(f" {note} ", (ms, place), va="center", ha="left" if ms >= 0 else "right", fontsize=8)
    axes.set_yticks(range(len(labels)), [label for label, _, _ in labels], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.35)
    axes.set_xlabel("change in ms per step, from A to B")
    title = [diff_title(diff), *_measured(diff), f"A: {diff.a.label}", f"B: {diff.b.label}"]
    axes.set_title("\n".join(title), loc="left", fontsize=9)
    return figure_png(figure)


def _shown(diff: ProfileDiff) -> tuple[list[Change], list[Change]]:
    """The largest changes, and the others. A single other change is shown as it is."""
    limit = SHOWN if len(diff.changes) > SHOWN + 1 else len(diff.changes)
    return diff.changes[:limit], diff.changes[limit:]


def _rows(diff: ProfileDiff) -> list[tuple[str, ...]]:
    shown, others = _shown(diff)
    rows: list[tuple[str, ...]] = [
        (shortened(one.name), one.part, one.word, _ms(one.a_ms), _ms(one.b_ms), significant(one.change_ms, 4, "+"),
         _percent(one.share_pct))
        for one in shown
    ]  # fmt: skip
    if others:
        rows.append((f"{len(others)} others", "", "", *_sums(others)))
    return [*rows, ("the step", "", "", *_sums(diff.changes))]


def _sums(changes: Sequence[Change]) -> tuple[str, str, str, str]:
    shares = [change.share_pct for change in changes if change.share_pct is not None]
    return (
        _ms(sum(change.a_ms or 0.0 for change in changes)),
        _ms(sum(change.b_ms or 0.0 for change in changes)),
        significant(sum(change.change_ms for change in changes), 4, "+"),
        _percent(sum(shares) if shares else None),
    )


def _ms(value: float | None) -> str:
    return "" if value is None else number(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"

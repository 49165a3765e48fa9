"""The files of ``profile=accuracy``: a table to read, the positions as CSV and as a chart."""

import csv
import io
from collections.abc import Sequence

from ttt_mlflow.measurement.accuracy import Accuracy, Side
from ttt_mlflow.report.style import COLORS, GRAY, figure_png
from ttt_mlflow.report.text import counted, escaped, number

GOAL = 1.1  # how many times as often as plain PyTorch a model may differ from the reference
COLUMNS = ("logits_error", "total_variation", "differing_tokens_pct")
WINDOW = 16  # positions over which the chart averages the share of tokens


def accuracy_markdown(accuracy: Accuracy, reference: str, yardstick: str | None, notes: Sequence[str]) -> str:
    """The values of the model and of the yardstick side by side, the answer, and what is not shown."""
    compared = counted(accuracy.sequences * accuracy.positions, "prediction")
    sizes = f"{counted(accuracy.sequences, 'sequence')} of {counted(accuracy.positions, 'position')}"
    head = f"{compared}: {sizes}. Reference: {reference}."
    names, sides = ["the run"], [accuracy.own]
    if accuracy.yardstick is not None and yardstick is not None:
        names.append(yardstick)
        sides.append(accuracy.yardstick)
    lines = [escaped(head), "", f"| | {' | '.join(map(escaped, names))} |", f"| --- |{' ---: |' * len(names)}"]
    for label, texts in _rows(sides, accuracy.sequences):
        lines.append(f"| {label} | {' | '.join(texts)} |")
    lines += ["", *(f"- {line}" for line in _answers(accuracy)), *(f"- {escaped(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def _rows(sides: Sequence[Side], sequences: int) -> list[tuple[str, list[str]]]:
    rows = []
    if all(side.deviations is not None for side in sides):
        known = [side.deviations for side in sides if side.deviations is not None]
        rows += [
            ("logits' error", [number(one.logits_error) for one in known]),
            ("total variation", [number(one.mean_total_variation) for one in known]),
            ("greedy tokens that differ, %", [number(one.differing_tokens_pct) for one in known]),
        ]
    parted = [f"{sum(one is not None for one in side.first)} of {sequences}" for side in sides]
    first = [str(side.first_difference or "") for side in sides]
    return [*rows, ("free-running sequences that part", parted), ("first token that differs", first)]


def _answers(accuracy: Accuracy) -> list[str]:
    lines = []
    if ratio := accuracy.ratio:
        goal = "within" if ratio.high <= GOAL else "beyond" if ratio.low > GOAL else "undecided against"
        lines.append(
            f"The greedy tokens differ from the reference {number(ratio.value)} times as often as those of plain "
            f"PyTorch (95 % confidence interval {number(ratio.low)} to {number(ratio.high)}): "
            f"{goal} the goal of {GOAL}."
        )
    elif accuracy.yardstick is not None and accuracy.own.deviations is not None:
        lines.append("No ratio: in the run or in plain PyTorch, no greedy token differs from the reference.")
    if accuracy.eager_differing_pct is not None:
        differ = accuracy.eager_differing_pct
        lines.append(
            f"Decode as measured and eager decode: {number(differ)} % of the free-running tokens differ."
            if differ
            else "Decode as measured and eager decode generate the same tokens."
        )
    return lines


def positions_csv(accuracy: Accuracy) -> str:
    """One row for each position, from 1: the values of the run, and of the yardstick if there is one."""
    named = [("", accuracy.own), ("yardstick_", accuracy.yardstick)]
    known = [(prefix, side.deviations) for prefix, side in named if side is not None and side.deviations is not None]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["position", *(f"{prefix}{column}" for prefix, _ in known for column in COLUMNS)])
    for position, rows in enumerate(zip(*(one.rows() for _, one in known), strict=True), 1):
        writer.writerow([position, *(value for row in rows for value in row)])
    return text.getvalue()


def positions_png(accuracy: Accuracy, title: str) -> bytes:
    """The logits' error and the share of differing tokens over the positions."""
    # a Figure needs no display and no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    # the run is drawn over the yardstick, whose line is wider, so that both are seen where they are equal
    sides = [("plain PyTorch, same dtype", GRAY, 3.0, accuracy.yardstick), ("this run", COLORS[0], 1.0, accuracy.own)]
    for label, color, width, side in sides:
        if side is None or side.deviations is None:
            continue
        rows = side.deviations.rows()
        at = range(1, len(rows) + 1)
        left.plot(at, [row[0] for row in rows], color=color, linewidth=width, label=label)
        right.plot(at, _averaged([row[2] for row in rows]), color=color, linewidth=width, label=label)
    left.set(title="logits' error", xlabel="position", ylabel="||l - ref|| / ||ref||")
    right.set(title=f"greedy tokens that differ, mean of {WINDOW} positions", xlabel="position", ylabel="%")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    left.legend(frameon=False)
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    return figure_png(figure)


def _averaged(values: Sequence[float]) -> list[float]:
    """The mean of the last WINDOW values at each position, or of as many as there are."""
    found = []
    for end in range(1, len(values) + 1):
        some = values[max(0, end - WINDOW) : end]
        found.append(sum(some) / len(some))
    return found

"""What is each microsecond of a decode step as one kernel? `python -m benchmarks.step_timeline OUTPUT`

For both inner nets and some batches: when each program of the persistent kernel reached each meeting and went on, over
a few steps of ttt-1b with random weights, fp16. Prints a table of the stages of a layer: the time in which programs
work, the time that the last one works longer than the median, and the time from the last one's arrival until the median
program goes on. Draws the stages of one layer over all programs. Needs a GPU.
"""

import sys
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure

from ttt_mlflow.kernels.persistent.launch import PersistentStep, Timeline
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.config import PERSISTENT
from ttt_mlflow.models.ttt.sizes import build

NETS = ("mlp_1_dual_triton", "mlp_2_dual_triton")
WARM_UP, STEPS = 200, 16
DRAWN_LAYER = 12


def timelines(inner_net: str, batch: int) -> list[Timeline]:
    """Of STEPS steps, after a warm-up."""
    device = torch.device("cuda")
    model = build(ModelRequest("ttt-1b", inner_net, torch.float16, device, 0, None, decode_path=PERSISTENT))
    state = model.new_state(batch)
    step = PersistentStep(model.step_tensors(state), batch, timeline=True)
    fed = torch.zeros(batch, dtype=torch.int64, device=device)
    for _ in range(WARM_UP):
        step(fed, fed)
    found = []
    for _ in range(STEPS):
        step(fed, fed)
        torch.cuda.synchronize()
        step.check()
        found.append(step.timeline())
    return found


def stage_times(one: Timeline) -> dict[str, list[tuple[float, float, float]]]:
    """Of each stage, by its name: microseconds of work (median program), of waiting for the last, and of going on."""
    times = one.times.numpy() / 1e3
    stages = defaultdict(list)
    left = np.full(times.shape[1], times[0, :, 0].min())
    for name, meeting in zip(one.stages, times, strict=True):
        came, went = meeting[:, 0], meeting[:, 1]
        stages[name].append(
            (
                float(np.median(came - left)),
                float(came.max() - np.median(came)),
                float(np.median(went) - came.max()),
            )
        )
        left = went
    return stages


def table(found: list[Timeline]) -> str:
    rows: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for one in found:
        for name, values in stage_times(one).items():
            rows[name] += values
    whole = [float(one.times[-1, :, 1].max() - one.times[0, :, 0].min()) / 1e3 for one in found]
    lines = [f"{'stage':26} {'times':>5} {'work':>7} {'last':>7} {'meeting':>7} {'sum of all':>10}   microseconds"]
    for name, values in rows.items():
        work, last, going = np.median(np.array(values), axis=0)
        times = len(values) // len(found)
        lines.append(f"{name:26} {times:5d} {work:7.2f} {last:7.2f} {going:7.2f} {times * (work + last + going):10.1f}")
    lines.append(
        f"from the first program's first meeting to the end: {np.median(whole):.1f} (median of {len(whole)} steps)"
    )
    return "\n".join(lines)


def draw(one: Timeline, title: str) -> Figure:
    """The stages of layer DRAWN_LAYER: a row for each program, work in color, waiting in gray."""
    times = one.times.numpy() / 1e3
    in_layer = (len(one.stages) - 2) // 24
    first = 1 + DRAWN_LAYER * in_layer
    start = times[first - 1, :, 1].min()
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(times.shape[1])
    for index in range(first, first + in_layer):
        began, came, went = times[index - 1, :, 1] - start, times[index, :, 0] - start, times[index, :, 1] - start
        axes.barh(rows, came - began, left=began, height=1, label=one.stages[index])
        axes.barh(rows, went - came, left=came, height=1, color="lightgray")
    axes.set(xlabel="microseconds", ylabel="program", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@click.command(help=__doc__, context_settings={"max_content_width": 120})
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--batches", default="1,2,8,16", show_default=True, help="Batches, comma-separated.")
def main(output: Path, batches: str) -> None:
    if not torch.cuda.is_available():
        raise click.ClickException("no CUDA GPU was found; the times of a kernel's stages are a GPU's")
    output.mkdir(parents=True, exist_ok=True)
    with (output / "step_timeline.txt").open("w") as file:
        for inner_net in NETS:
            for batch in map(int, batches.split(",")):
                found = timelines(inner_net, batch)
                text = f"{inner_net} batch {batch}, {torch.cuda.get_device_name()}\n{table(found)}\n"
                print(text, flush=True)
                print(text, file=file)
                draw(found[-1], f"{inner_net}, batch {batch}: layer {DRAWN_LAYER}").savefig(
                    output / f"step_timeline-{inner_net}-{batch}.png", dpi=120
                )
                torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())

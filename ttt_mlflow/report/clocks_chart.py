"""The plot of a run's clocks."""

from collections.abc import Sequence

import pandas as pd

from ttt_mlflow.report.style import GRAY, figure_png
from ttt_mlflow.telemetry.samples import Section, power_column


def clocks_png(samples: pd.DataFrame, sections: Sequence[Section], title: str = "") -> bytes:
    """A PNG of clocks, power and temperature over time, with the measured sections shaded."""
    # imported late because matplotlib is slow to import; a Figure needs no display and no global state
    from matplotlib.figure import Figure

    panels: list[tuple[str, list[tuple[str | None, str, str]]]] = [
        ("Clock (MHz)", [("sm_clock_mhz", "SM", "#1f6fb4"), ("memory_clock_mhz", "memory", GRAY)]),
        ("Power (W)", [(power_column(samples), "power", "#c8553d")]),
        ("Temperature (°C)", [("temperature_c", "temperature", "#7a5195")]),
    ]
    times_ns = samples["time_ns"] if not samples.empty else pd.Series(dtype="int64")
    zero_ns = int(times_ns.min()) if not samples.empty else 0
    seconds = (times_ns - zero_ns) / 1e9

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True)
    for axis, (label, lines) in zip(axes, panels, strict=True):
        drawn = [line for line in lines if line[0] in samples and samples[line[0]].notna().any()]
        for column, name, color in drawn:
            axis.plot(seconds, samples[column], color=color, linewidth=1.4)
            if len(drawn) > 1:  # label each line at its end, to the right of the panel
                height = float(samples[column].dropna().iloc[-1])
                place = axis.get_yaxis_transform()
                axis.text(1.005, height, name, transform=place, color=color, va="center", fontsize=9)
        if drawn:
            top = max(float(samples[column].max()) for column, _, _ in drawn)
            axis.set_ylim(0, top * 1.08 if top > 0 else 1)
        else:
            axis.text(0.5, 0.5, "not recorded", transform=axis.transAxes, ha="center", va="center", color=GRAY)
            axis.set_yticks([])
        for section in sections:
            begin, end = (section.begin_ns - zero_ns) / 1e9, (section.end_ns - zero_ns) / 1e9
            axis.axvspan(begin, end, color="#f2c14e", alpha=0.22, linewidth=0)
        axis.set_ylabel(label)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    axes[-1].set_xlabel("Time since the first sample (s)")
    axes[0].set_title(title or "GPU over time", loc="left", fontsize=12, fontweight="bold")
    if sections:
        axes[0].set_title("shaded: measured", loc="right", fontsize=9, color="#9a7413")
    figure.align_ylabels(axes)
    return figure_png(figure)

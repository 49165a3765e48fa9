"""The charts of a micro-benchmark: a PNG, and an interactive chart in one HTML file that needs no network."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ttt_mlflow.kernels.inner_layers import INNER_LAYERS
from ttt_mlflow.names import GPU_READ_GB_PER_S
from ttt_mlflow.record.micro_results import CellResult, MicroResults
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.style import COLORS, GRAY

LOOKS: dict[Any, Any] = {
    "lines.marker": "o",
    "figure.figsize": (9, 6),
    "savefig.dpi": 150,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
READ_LIMIT = "the GPU's read bandwidth"
NOTHING = (float("nan"), float("nan"), float("nan"))


def timed_kernels(results: MicroResults) -> list[str]:
    """The kernels with at least one timed cell, in the requested order."""
    return list(dict.fromkeys(cell.kernel for cell in results.cells if cell.us))


def kernels_png(results: MicroResults) -> bytes:
    """Time over batch, in the style of ``triton.testing``: one line per kernel, its 20th to 80th percentile shaded.

    An invalid cell has a gray point.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from triton.testing import Benchmark, perf_report

    kernels, batches = timed_kernels(results), sorted({cell.batch for cell in results.cells})

    def recorded(batch: int, kernel: str) -> tuple[float, float, float]:
        cell = results.cell(kernel, batch)
        return (cell and cell.quantiles) or NOTHING

    benchmark = Benchmark(
        x_names=["batch"],
        x_vals=batches,
        line_arg="kernel",
        line_vals=kernels,
        line_names=kernels,
        plot_name="kernels",
        args={},
        xlabel="batch",
        ylabel="µs",
        x_log=True,
        y_log=True,
        styles=[(COLORS[index % len(COLORS)], "-") for index in range(len(kernels))],
    )
    with matplotlib.rc_context(LOOKS):
        perf_report(benchmark)(recorded).run()
        figure = plt.gcf()
        axes = figure.axes[0]
        for cell in results.cells:
            if cell.verdict == "invalid" and cell.quantiles:
                axes.plot(cell.batch, cell.quantiles[0], "o", color=GRAY, ms=9, zorder=5)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set_xticks([], minor=True)
        axes.set_title(_title(results).replace("<br><sub>", "\n").removesuffix("</sub>"), loc="left")
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        plt.close(figure)
    return picture.getvalue()


@dataclass(frozen=True)
class Quantity:
    """One view of the times: the axis, the conversion of a cell's µs, and the limit that the GPU sets.

    limit_name: name of a limit that is the same for all cells. Without a name, each inner net has its own line.
    """

    axis: str
    value: Callable[[CellResult, float], float]
    limit: Callable[[CellResult], float] | None = None
    limit_name: str | None = None


def chart_html(results: MicroResults) -> bytes:
    """A page with one chart: a line for each kernel over the batch, with bars from the 20th to the 80th percentile.

    Dashed lines show the limit of the GPU's read bandwidth. Buttons choose time, GB/s, or percent of that bandwidth.
    The page has no secrets and needs nothing from elsewhere.
    """
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs

    quantities = _quantities(results)
    traces = [_traces(results, quantity) for quantity in quantities.values()]
    figure = go.Figure([trace | {"visible": part is traces[0]} for part in traces for trace in part])
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [
                {"visible": [shown is part for part in traces for _ in part]},
                {"yaxis.title.text": quantity.axis, "yaxis.type": "log" if label == "µs" else "linear"},
            ],
        }
        for shown, (label, quantity) in zip(traces, quantities.items(), strict=True)
    ]
    batches = sorted({cell.batch for cell in results.cells})
    figure.update_layout(
        title={"text": _title(results), "x": 0.01},
        template="plotly_white",
        xaxis={"title": {"text": "batch"}, "type": "log", "tickvals": batches, "ticktext": [str(b) for b in batches]},
        yaxis={"title": {"text": next(iter(quantities.values())).axis}, "type": "log", "rangemode": "tozero"},
        legend={"orientation": "h", "y": -0.2},
        hovermode="x unified",
        updatemenus=[
            {"type": "buttons", "direction": "right", "x": 1, "xanchor": "right", "y": 1.14, "buttons": buttons}
        ],
    )
    page = without_secrets(figure.to_html(include_plotlyjs=False, config={"displaylogo": False, "responsive": True}))
    # The library is not searched for secrets: that takes seconds, and what looks like one there is a part of a program.
    return page.replace("<head>", f"<head><script>{get_plotlyjs()}</script>", 1).encode()


def _quantities(results: MicroResults) -> dict[str, Quantity]:
    ceiling = results.ceilings.get(GPU_READ_GB_PER_S.name)

    def time(cell: CellResult, us: float) -> float:
        return us

    def rate(cell: CellResult, us: float) -> float:
        return cell.floor_bytes / us / 1e3

    axes = {"µs": "µs per step", "GB/s": "GB/s, of the minimum bytes"}
    if ceiling is None:  # on a CPU
        return {"µs": Quantity(axes["µs"], time), "GB/s": Quantity(axes["GB/s"], rate)}
    return {
        "µs": Quantity(axes["µs"], time, lambda cell: rate(cell, ceiling)),
        "GB/s": Quantity(axes["GB/s"], rate, lambda cell: ceiling, READ_LIMIT),
        "% of the read ceiling": Quantity(
            "% of the GPU's read bandwidth",
            lambda cell, us: 100 * rate(cell, us) / ceiling,
            lambda cell: 100.0,
            READ_LIMIT,
        ),
    }


def _traces(results: MicroResults, quantity: Quantity) -> list[dict[str, Any]]:
    kernels = timed_kernels(results)
    lines = [_line(results, quantity, name, COLORS[at % len(COLORS)]) for at, name in enumerate(kernels)]
    return lines if quantity.limit is None else lines + _limits(results, quantity.limit, quantity.limit_name)


def _line(results: MicroResults, quantity: Quantity, kernel: str, color: str) -> dict[str, Any]:
    cells = sorted((cell for cell in results.cells if cell.kernel == kernel and cell.us), key=lambda cell: cell.batch)
    rows = [[quantity.value(cell, us) for us in cell.quantiles or NOTHING] for cell in cells]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": kernel,
        "x": [cell.batch for cell in cells],
        "y": [row[0] for row in rows],
        # a shorter time is a higher bandwidth, so the quantity decides which percentile is above the median
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(row) - row[0] for row in rows],
            "arrayminus": [row[0] - min(row) for row in rows],
        },
        "line": {"color": color},
        "marker": {"color": [GRAY if cell.verdict == "invalid" else color for cell in cells], "size": 8},
        "hovertext": [f"invalid: {', '.join(cell.reasons)}" if cell.verdict == "invalid" else "" for cell in cells],
    }


def _limits(results: MicroResults, limit: Callable[[CellResult], float], name: str | None) -> list[dict[str, Any]]:
    """The GPU's limit over the batch: one line called ``name``, or one line for each inner net that was timed."""
    kinds = {kernel.name: name or f"roofline of {INNER_LAYERS[kernel.layer_type].title}" for kernel in results.kernels}
    named: dict[str, dict[int, float]] = {}
    for cell in sorted((cell for cell in results.cells if cell.us), key=lambda cell: cell.batch):
        named.setdefault(kinds[cell.kernel], {})[cell.batch] = limit(cell)
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": label,
            "x": list(line),
            "y": list(line.values()),
            "line": {"color": GRAY, "dash": dash},
        }
        for (label, line), dash in zip(named.items(), ("dash", "dot"), strict=False)
    ]


def _title(results: MicroResults) -> str:
    config = results.config
    return (
        f"Decode step of one layer, mean over a mini-batch<br><sub>{results.device_name}, {config['dtype']}, "
        f"{config['heads']} heads of {config['head_dim']}</sub>"
    )

"""The charts of a micro-benchmark: a PNG, and an interactive chart in one HTML file that needs no network.

A prompt takes as long as thousands of decode steps, so the two never share an axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from ttt_mlflow.kernels.inner_layers import INNER_LAYERS
from ttt_mlflow.names import GPU_MATMUL_TFLOPS, GPU_READ_GB_PER_S
from ttt_mlflow.record.micro_results import MATRIX_DTYPES, CellResult, MicroResults
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.style import COLORS, GRAY, figure_png
from ttt_mlflow.report.text import short

LOOKS: dict[Any, Any] = {"lines.marker": "o", "axes.grid": True, "grid.alpha": 0.3}
PANEL_INCHES = (9, 6)
READ_LIMIT = "the GPU's read bandwidth"
ROOFLINE = "the roofline"
NOTHING = (float("nan"), float("nan"), float("nan"))


def timed_kernels(results: MicroResults) -> list[str]:
    """The kernels with at least one timed cell, in the requested order."""
    return list(dict.fromkeys(cell.kernel for cell in results.cells if cell.us))


def kernels_png(results: MicroResults) -> bytes:
    """Time over batch, one line per kernel, its 20th to 80th percentile shaded; decode steps and prompts side by side.

    An invalid cell has a gray point.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    modes = _timed_modes(results)
    with mpl.rc_context(LOOKS):
        figure = Figure(figsize=(PANEL_INCHES[0] * len(modes), PANEL_INCHES[1]), layout="constrained")
        for axes, (mode, cells) in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes.items(), strict=True):
            _draw(axes, results, cells)
            axes.set_title(_title(results, mode).replace("<br><sub>", "\n").removesuffix("</sub>"), loc="left")
        return figure_png(figure)


def _timed_modes(results: MicroResults) -> dict[str, list[CellResult]]:
    """The timed cells by mode, decode steps first."""
    timed = sorted((cell for cell in results.cells if cell.us), key=lambda cell: (cell.mode, cell.batch))
    return {mode: [cell for cell in timed if cell.mode == mode] for mode in dict.fromkeys(cell.mode for cell in timed)}


def _draw(axes: Any, results: MicroResults, cells: list[CellResult]) -> None:
    for kernel, color in _colors(results, cells).items():
        own = [cell for cell in cells if cell.kernel == kernel]
        batches, rows = [cell.batch for cell in own], [cell.quantiles or NOTHING for cell in own]
        median, low, high = zip(*rows, strict=True)
        axes.plot(batches, median, color=color, label=kernel)
        axes.fill_between(batches, low, high, color=color, alpha=0.15)
        for cell in own:
            if cell.verdict == "invalid" and cell.quantiles:
                axes.plot(cell.batch, cell.quantiles[0], "o", color=GRAY, ms=9, zorder=5)
    axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="µs")
    batches = sorted({cell.batch for cell in cells})
    axes.set_xticks(batches, list(map(short, batches)))
    axes.set_xticks([], minor=True)
    axes.legend()


def _colors(results: MicroResults, cells: list[CellResult]) -> dict[str, str]:
    """The color of each kernel in ``cells``, in the requested order."""
    there = {cell.kernel for cell in cells}
    kernels = [kernel for kernel in timed_kernels(results) if kernel in there]
    return {kernel: COLORS[at % len(COLORS)] for at, kernel in enumerate(kernels)}


@dataclass(frozen=True)
class Quantity:
    """One view of the times: the axis, the conversion of a cell's µs, and the limit that the GPU sets.

    limit_name: name of a limit that is the same for all cells. Without a name, each operation has its own line.
    """

    axis: str
    value: Callable[[CellResult, float], float]
    limit: Callable[[CellResult], float] | None = None
    limit_name: str | None = None
    log: bool = False


def chart_html(results: MicroResults) -> bytes:
    """A page with one chart: a line for each kernel over the batch, with bars from the 20th to the 80th percentile.

    Dashed lines show the limit that the GPU sets. Buttons choose the quantity, and whether decode steps or prompts are
    shown if there are both. The page has no secrets and needs nothing from elsewhere.
    """
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs

    views: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {}  # a button's label -> traces, layout
    modes = _timed_modes(results)
    for mode, cells in modes.items():
        batches = sorted({cell.batch for cell in cells})
        axis = {"xaxis.tickvals": batches, "xaxis.ticktext": list(map(short, batches))}
        for label, quantity in _quantities(results, mode).items():
            views[f"{mode} {label}" if len(modes) > 1 else label] = (
                _traces(results, cells, quantity),
                {
                    "title.text": _title(results, mode),
                    "yaxis.title.text": quantity.axis,
                    "yaxis.type": "log" if quantity.log else "linear",
                    **axis,
                },
            )
    traces = [part for part, _ in views.values()]
    figure = go.Figure([trace | {"visible": part is traces[0]} for part in traces for trace in part])
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"visible": [shown is part for part in traces for _ in part]}, layout],
        }
        for label, (shown, layout) in views.items()
    ]
    _, first = next(iter(views.values()))
    figure.update_layout(
        title={"text": first["title.text"], "x": 0.01},
        template="plotly_white",
        xaxis={
            "title": {"text": "batch"},
            "type": "log",
            "tickvals": first["xaxis.tickvals"],
            "ticktext": first["xaxis.ticktext"],
        },
        yaxis={"title": {"text": first["yaxis.title.text"]}, "type": first["yaxis.type"], "rangemode": "tozero"},
        legend={"orientation": "h", "y": -0.2},
        hovermode="x unified",
        updatemenus=[
            {"type": "buttons", "direction": "right", "x": 1, "xanchor": "right", "y": 1.14, "buttons": buttons}
        ],
    )
    page = without_secrets(figure.to_html(include_plotlyjs=False, config={"displaylogo": False, "responsive": True}))
    # The library is not searched for secrets: that takes seconds, and what looks like one there is a part of a program.
    return page.replace("<head>", f"<head><script>{get_plotlyjs()}</script>", 1).encode()


def _quantities(results: MicroResults, mode: str) -> dict[str, Quantity]:
    return _of_decode_steps(results) if mode == "decode" else _of_prompts(results)


def _time(cell: CellResult, us: float) -> float:
    return us


def _gb_per_s(cell: CellResult, us: float) -> float:
    return cell.floor_bytes / us / 1e3


def _tokens_per_s(cell: CellResult, us: float) -> float:
    return 1e6 * cell.tokens / us


def _of_decode_steps(results: MicroResults) -> dict[str, Quantity]:
    """A decode step is bound by memory."""
    ceiling = results.ceilings.get(GPU_READ_GB_PER_S.name)
    axes = {"µs": "µs per step", "GB/s": "GB/s, of the minimum bytes"}
    if ceiling is None:  # on a CPU
        return {"µs": Quantity(axes["µs"], _time, log=True), "GB/s": Quantity(axes["GB/s"], _gb_per_s)}
    return {
        "µs": Quantity(axes["µs"], _time, lambda cell: _gb_per_s(cell, ceiling), log=True),
        "GB/s": Quantity(axes["GB/s"], _gb_per_s, lambda cell: ceiling, READ_LIMIT),
        "% of the read ceiling": Quantity(
            "% of the GPU's read bandwidth",
            lambda cell, us: 100 * _gb_per_s(cell, us) / ceiling,
            lambda cell: 100.0,
            READ_LIMIT,
        ),
    }


def _of_prompts(results: MicroResults) -> dict[str, Quantity]:
    """A prompt is bound by memory or by the matrix units, whichever takes longer."""
    axes = {"µs": "µs per prompt", "tokens/s": "tokens/s of one layer's inner net"}
    read = results.ceilings.get(GPU_READ_GB_PER_S.name)
    matrix = results.ceilings.get(GPU_MATMUL_TFLOPS.name)
    if read is None or matrix is None or results.config["dtype"] not in MATRIX_DTYPES:
        return {"µs": Quantity(axes["µs"], _time, log=True), "tokens/s": Quantity(axes["tokens/s"], _tokens_per_s)}

    def roofline_us(cell: CellResult) -> float:
        return max(cell.floor_bytes / read / 1e3, (cell.flops or 0.0) / matrix / 1e6)

    return {
        "µs": Quantity(axes["µs"], _time, roofline_us, log=True),
        "tokens/s": Quantity(axes["tokens/s"], _tokens_per_s, lambda cell: _tokens_per_s(cell, roofline_us(cell))),
        "% of the roofline": Quantity(
            "% of the roofline", lambda cell, us: 100 * roofline_us(cell) / us, lambda cell: 100.0, ROOFLINE
        ),
    }


def _traces(results: MicroResults, cells: list[CellResult], quantity: Quantity) -> list[dict[str, Any]]:
    lines = [
        _line([cell for cell in cells if cell.kernel == kernel], quantity, color)
        for kernel, color in _colors(results, cells).items()
    ]
    return lines if quantity.limit is None else lines + _limits(results, cells, quantity.limit, quantity.limit_name)


def _line(cells: list[CellResult], quantity: Quantity, color: str) -> dict[str, Any]:
    """The line of one kernel."""
    rows = [[quantity.value(cell, us) for us in cell.quantiles or NOTHING] for cell in cells]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": cells[0].kernel,
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


def _limits(
    results: MicroResults, cells: list[CellResult], limit: Callable[[CellResult], float], name: str | None
) -> list[dict[str, Any]]:
    """The GPU's limit over the batch: one line called ``name``, or one line for each operation that was timed."""
    kinds = {
        kernel.name: name or f"roofline of {kernel.title or INNER_LAYERS[kernel.layer_type].title}"
        for kernel in results.kernels
    }
    named: dict[str, dict[int, float]] = {}
    for cell in cells:
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
        for (label, line), dash in zip(named.items(), cycle(("dash", "dot")), strict=False)
    ]


def _title(results: MicroResults, mode: str) -> str:
    config, timed = results.config, "Decode step of one layer, mean over a mini-batch"
    if mode == "prefill":
        timed = f"Prompt of {config['promptlen']} tokens through one layer"
    layer = f"{config['heads']} heads of {config['head_dim']}"
    return f"{timed}<br><sub>{results.device_name}, {config['dtype']}, {layer}</sub>"

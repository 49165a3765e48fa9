"""The table of a micro-benchmark: for the terminal, as Markdown (the MLflow run's description) and as CSV.

All of them only show what is in the results. A column without any value is left out.
"""

from typing import Any

import pandas as pd

from ttt_mlflow import names
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.micro_results import CellResult, MicroResults
from ttt_mlflow.report.description import again_markdown, verdict_markdown
from ttt_mlflow.report.summary import Status, host_row, status_text, verdict_row
from ttt_mlflow.report.text import escaped, number, text_table

CEILINGS = {
    names.GPU_READ_GB_PER_S: "the GPU reads {:,.0f} GB/s",
    names.GPU_COPY_GB_PER_S: "copies {:,.0f} GB/s (read and written)",
    names.GPU_MATMUL_TFLOPS: "multiplies fp16 matrices at {:,.0f} TFLOP/s",
}
L2_SIZES = 4  # timed memory, in L2 sizes, below which part of it may have been served from the L2
COLUMNS = {
    "kernel": "kernel",
    "batch": "batch",
    "promptlen": "prompt",
    "us": "µs",
    "spread": "p20 to p80",
    "tokens_per_s": "tokens/s",
    "gb_per_s": "GB/s",
    "read_ceiling_pct": "% of read ceiling",
    "tflops": "TFLOP/s",
    "matrix_ceiling_pct": "% of matrix ceiling",
    names.ROOFLINE_PCT.name: "% of roofline",
    "error": "error",
    "first_use_s": "first use s",
    names.SM_CLOCK_MHZ_MEAN.name: "SM MHz",
    names.POWER_W_MEAN.name: "W",
    "status": "status",
    "verdict": "verdict",
}
TEXTS = ("kernel", "status", "verdict")  # headings of left-aligned columns


def cell_text(cell: CellResult, results: MicroResults) -> str:
    """One cell as one line, for the log."""
    if not cell.quantiles:
        return f"{_title(cell)}: {cell.message}"
    median, low, high = (number(value) for value in cell.quantiles)
    parts = [f"{median} µs ({low} to {high})"]
    if cell.promptlen:
        parts.append(f"{number(cell.tokens_per_s or 0)} tokens/s")
    rates = (
        (cell.gb_per_s, "GB/s", results.read_ceiling_pct(cell), "read ceiling"),
        (cell.tflops, "TFLOP/s", results.matrix_ceiling_pct(cell), "matrix ceiling"),
    )
    for rate, unit, percent, ceiling in rates:
        parts += [f"{number(rate)} {unit}"] if rate is not None else []
        parts += [f"{percent:.1f} % of the {ceiling}"] if percent is not None else []
    return f"{_title(cell)}: {', '.join(parts)}"


def _title(cell: CellResult) -> str:
    return f"{cell.kernel} batch {cell.batch}" + (f" prompt {cell.promptlen}" if cell.promptlen else "")


def ceilings_text(results: MicroResults) -> str:
    """The GPU's ceilings in one line."""
    return ", ".join(text.format(results.ceilings[metric.name]) for metric, text in CEILINGS.items())


def table_frame(results: MicroResults) -> pd.DataFrame:
    """One row for each kernel and batch, with the measured numbers. A missing number is NaN."""
    rows: list[dict[str, Any]] = []
    for cell in results.cells:
        kernel = results.kernel(cell.kernel)
        median, low, high = cell.quantiles or (None, None, None)
        rows.append(
            {
                "kernel": cell.kernel,
                "batch": cell.batch,
                "promptlen": cell.promptlen,
                "us": median,
                "us_p20": low,
                "us_p80": high,
                "tokens_per_s": cell.tokens_per_s,
                "gb_per_s": cell.gb_per_s,
                "read_ceiling_pct": results.read_ceiling_pct(cell),
                "tflops": cell.tflops,
                "matrix_ceiling_pct": results.matrix_ceiling_pct(cell),
                names.ROOFLINE_PCT.name: results.roofline_pct(cell),
                "error": kernel.error,
                "first_use_s": kernel.first_use_s,
                names.SM_CLOCK_MHZ_MEAN.name: cell.telemetry.get(names.SM_CLOCK_MHZ_MEAN.name),
                names.POWER_W_MEAN.name: cell.telemetry.get(names.POWER_W_MEAN.name),
                names.TEMPERATURE_C_MAX.name: cell.telemetry.get(names.TEMPERATURE_C_MAX.name),
                "floor_bytes": cell.floor_bytes,
                "flops": cell.flops,
                "samples": len(cell.us),
                "overlap": cell.overlap,
                "status": cell.status,
                "message": cell.message,
                "verdict": cell.verdict,
                "reasons": ",".join(cell.reasons),
            }
        )
    return pd.DataFrame(rows)


def table_csv(results: MicroResults) -> str:
    return table_frame(results).to_csv(index=False)


def table_rows(results: MicroResults) -> tuple[list[str], list[list[str]]]:
    """Headings and formatted cells. Columns without any measured value are left out."""
    rows = [_row(cell, results) for cell in results.cells]
    shown = [key for key in COLUMNS if any(row[key] for row in rows)]
    return [COLUMNS[key] for key in shown], [[row[key] for key in shown] for row in rows]


def _row(cell: CellResult, results: MicroResults) -> dict[str, str]:
    kernel = results.kernel(cell.kernel)
    median, low, high = cell.quantiles or (None, None, None)
    return {
        "kernel": cell.kernel,
        "batch": str(cell.batch),
        "promptlen": str(cell.promptlen or ""),
        "us": _number(median),
        "spread": f"{_number(low)} to {_number(high)}" if cell.quantiles else "",
        "tokens_per_s": _number(cell.tokens_per_s) if cell.promptlen else "",
        "gb_per_s": _number(cell.gb_per_s),
        "read_ceiling_pct": _percent(results.read_ceiling_pct(cell)),
        "tflops": _number(cell.tflops),
        "matrix_ceiling_pct": _percent(results.matrix_ceiling_pct(cell)),
        names.ROOFLINE_PCT.name: _percent(results.roofline_pct(cell)),
        "error": "" if kernel.error is None else f"{kernel.error:.1e}",
        "first_use_s": "" if kernel.first_use_s is None else f"{kernel.first_use_s:.2f}",
        names.SM_CLOCK_MHZ_MEAN.name: _number(cell.telemetry.get(names.SM_CLOCK_MHZ_MEAN.name)),
        names.POWER_W_MEAN.name: _number(cell.telemetry.get(names.POWER_W_MEAN.name)),
        "status": cell.status,
        "verdict": ": ".join(filter(None, [cell.verdict, ", ".join(cell.reasons)])),
    }


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def table_markdown(results: MicroResults) -> str:
    """The table without notes."""
    headings, rows = table_rows(results)
    rules = ["---" if heading in TEXTS else "---:" for heading in headings]
    lines = [headings, rules, *([escaped(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def micro_markdown(journal: Journal, status: Status | None = None) -> str:
    """The MLflow run's description: the fastest kernels, how to time them again, the table, notes, the host.

    ``status``: what the status is about to be, if it is not in the record yet.
    """
    results, status = read_results(journal), status or journal.status
    parts = []
    if status["status"] != "ok":
        parts += [f"**{escaped(status_text(status))}**", ""]
    headline = [*map(escaped, _fastest(results) if results else []), *verdict_markdown(journal)]
    parts += [*(f"- {line}" for line in headline), *([""] if headline else []), *again_markdown(journal)]
    parts += [f"**{escaped(journal.run_name)}**", ""]
    if results and results.cells:
        parts += [table_markdown(results)]
    parts += [f"{escaped(line)}  " for line in _notes(journal, results)]
    return "\n".join([*parts, ""])


def micro_text(journal: Journal, record_at: str) -> str:
    """The table and its notes, for the terminal. ``record_at``: the location of the record."""
    results = read_results(journal)
    lines = [journal.run_name]
    if results and results.cells:
        headings, rows = table_rows(results)
        numeric = [heading for heading in headings if heading not in TEXTS]
        lines.append(text_table(headings, rows, numeric, [cell.verdict == "invalid" for cell in results.cells]))
    return "\n".join([*lines, *(f"  {line}" for line in _notes(journal, results)), f"  record  {record_at}"])


def read_results(journal: Journal) -> MicroResults | None:
    """The results in the journal; None if the run ended before it wrote them."""
    path = journal.artifacts / names.ARTIFACT_MICRO_SAMPLES.path
    return MicroResults.read(path) if path.exists() else None


def _notes(journal: Journal, results: MicroResults | None) -> list[str]:
    notes = []
    if results and results.ceilings:
        notes.append(ceilings_text(results))
    if results:
        notes += [f"{where}: {why}" for where, why in results.failures.items()]
        notes += _warm(results) + _overlapping(results)
    notes += [f"verdict {text}" for _, text in verdict_row(journal)]
    return [*notes, *(text for _, text in host_row(journal))]


def _fastest(results: MicroResults) -> list[str]:
    """The fastest kernel of each inner layer with each batch, decode steps and prompts apart, in one line each."""
    best: dict[tuple[str, int, int | None], CellResult] = {}
    for cell in results.cells:
        key = (results.kernel(cell.kernel).layer_type, cell.batch, cell.promptlen)
        if cell.quantiles and (key not in best or cell.quantiles[0] < (best[key].quantiles or cell.quantiles)[0]):
            best[key] = cell
    return [
        f"fastest {layer} {'prefill ' if prompt else ''}kernel: {cell_text(cell, results)}"
        for (layer, _, prompt), cell in best.items()
    ]


def _overlapping(results: MicroResults) -> list[str]:
    """A note that names the kernels whose launches overlapped, as they also do in a model."""
    names = dict.fromkeys(cell.kernel for cell in results.cells if cell.overlap)
    return [f"launches of these kernels may overlap: {', '.join(names)}"] if names else []


def _warm(results: MicroResults) -> list[str]:
    """Notes about cells whose timed memory partly fits into the L2."""
    warm = {f"{cell.kernel} batch {cell.batch}": sizes for cell in results.cells if (sizes := results.l2_sizes(cell))}
    return [
        f"{where}: the timed memory is {sizes:.1f} times the L2: part of it may have been read from the L2"
        for where, sizes in warm.items()
        if sizes < L2_SIZES
    ]

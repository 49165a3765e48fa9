"""Compares TTT-Linear, TTT-MLP and Mamba with their rooflines, and lists the parts of a step side by side.

``python -m benchmarks.roofline_table OUTPUT_FOLDER`` runs each model in its own process with every batch, and writes
OUTPUT_FOLDER/roofline.md; the records are in OUTPUT_FOLDER/runs. The ceilings are those kept from
`ttt-mlflow doctor --measure`. If there are none, they are measured first. A model or batch that cannot be measured has
a row with the reason. Exit code 0 if every row was measured, 1 if not, 2 if none was.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.runs import facts_of, last_line, record
from ttt_mlflow.errors import RunFailed, TTTError
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.report.text import number
from ttt_mlflow.workload import PARTS

# name in the table -> model and inner net
MODELS = {
    "TTT-Linear": {"model_name": "ttt-1b", "inner_net": "mlp_1_dual_triton"},
    "TTT-MLP": {"model_name": "ttt-1b", "inner_net": "mlp_2_dual_triton"},
    "Mamba": {"model_name": "state-spaces/mamba-1.4b"},
}
ON_CPU = {
    "TTT-Linear": {"model_name": "ttt-tiny", "inner_net": "mlp_1_dual"},
    "TTT-MLP": {"model_name": "ttt-tiny", "inner_net": "mlp_2_dual"},
}
COMMON = {"dtype": "float16", "cuda_graph": "true"}
MEASURED = {
    "tokens/s": "decode_tokens_per_s",
    "step, mean ms": "decode_step_ms_mean",
    "roofline ms": "roofline_ms",
    "roofline %": "roofline_pct",
    "GB per step": "min_bytes_per_step",
    "GFLOP per step": "flops_per_step",
}
SCALES = {"min_bytes_per_step": 1e-9, "flops_per_step": 1e-9}

Row = tuple[str, int, Journal | str]  # model, batch, and its record or the reason why there is none


def table(rows: Sequence[Row]) -> str:
    """One row for each model and batch, in Markdown. The cell of a value that was not measured is empty."""
    lines = [("model", "batch", *MEASURED, "verdict"), ("---", *["---:"] * (1 + len(MEASURED)), "---")]
    for model, batch, run in rows:
        if isinstance(run, str):
            lines.append((model, str(batch), *[""] * len(MEASURED), _cell(run)))
            continue
        metrics, tags = run.metrics, run.tags
        cells = [number(metrics[m] * SCALES.get(m, 1.0)) if m in metrics else "" for m in MEASURED.values()]
        verdict = f"{tags.get('ttt.verdict', 'not judged')} {tags.get('ttt.reasons', '')}".strip()
        lines.append((model, str(batch), *cells, _cell(verdict)))
    return _markdown(lines)


def parts_table(rows: Sequence[Row]) -> str:
    """One row for each model and batch, with the roofline time of each part, or its bytes without known ceilings."""
    measured = [(model, batch, _parts(run)) for model, batch, run in rows if isinstance(run, Journal)]
    lines = [("model", "batch", *PARTS), ("---", *["---:"] * (1 + len(PARTS)))]
    for model, batch, parts in measured:
        lines.append((model, str(batch), *(_part(parts.get(part)) for part in PARTS)))
    return _markdown(lines)


def _parts(journal: Journal) -> dict[str, dict[str, str]]:
    """The recorded parts of the run's step; empty for a model that does not count its work."""
    path = journal.artifacts / "roofline/parts.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["part"]: row for row in csv.DictReader(file)}


def _part(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    if row["floor_ms"]:
        return f"{number(float(row['floor_ms']))} ms"
    return f"{number(float(row['bytes']) / 1e9)} GB"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# Making the runs


def ensure_ceilings() -> str:
    """The ceilings of the first GPU in one line, measured if none are kept. Uses a separate process."""
    return last_line("benchmarks.roofline_table", "--ceilings")


def print_ceilings() -> None:
    import torch

    from ttt_mlflow.app.doctor.gpu import measure_gpus
    from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown, known_ceilings

    device = torch.device("cuda", 0)
    try:
        known = known_ceilings(device)
    except CeilingsUnknown:
        measure_gpus(lambda line: print(line, file=sys.stderr))
        known = known_ceilings(device)
    print(f"reads {known.read_gb_per_s:,.0f} GB/s, multiplies {known.matmul_tflops:,.0f} TFLOP/s in fp16")


def run_batches(logdir: Path, asked: dict[str, str], batches: Sequence[int]) -> list[str]:
    """One run for each batch, in this process. Returns each journal's folder, or why there is no result."""
    results = []
    for batch in batches:
        try:
            results.append(str(record(logdir, asked | {"batch": str(batch)}).path))
        except TTTError as error:
            results.append(f"not measured: {error}")
    return results


def make_rows(logdir: Path, models: dict[str, dict[str, str]], common: dict[str, str], batches: list[int]) -> list[Row]:
    """Run every model in its own process, with all its batches."""
    rows: list[Row] = []
    for model, own in models.items():
        order = {"logdir": str(logdir), "asked": common | own, "batches": batches}
        try:
            results = json.loads(last_line("benchmarks.roofline_table", "--order", json.dumps(order)))
        except RunFailed as failure:
            results = [f"not measured: {failure}"] * len(batches)
        for batch, result in zip(batches, results, strict=True):
            run = result if result.startswith("not measured") else Journal.open(result)
            rows.append((model, batch, run))
            said = run if isinstance(run, str) else f"{run.metrics['decode_tokens_per_s']:,.0f} tokens/s"
            print(f"{model}, batch {batch}: {said}", flush=True)
    return rows


def document(rows: Sequence[Row], ceilings: str, command: str, began: datetime) -> str:
    """The page: how it was made, the measured values, and the parts."""
    journals = [run for _, _, run in rows if isinstance(run, Journal)]
    facts = ", ".join(f"{name} {value}" for name, value in facts_of(journals[0]).items())
    return "\n".join(
        [
            "# Roofline of a decode step",
            "",
            f"{began:%Y-%m-%d %H:%M} UTC, `{command}`",
            f"{facts}. The GPU {ceilings}.",
            "",
            table(rows),
            "The roofline time of each part of a step (its bytes, if the GPU's ceilings are not known):",
            "",
            parts_table(rows),
        ]
    )


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser("python -m benchmarks.roofline_table", description=__doc__.split("\n\n")[0])
    parsed.add_argument("folder", type=Path, metavar="OUTPUT_FOLDER")
    parsed.add_argument("--batches", default="128,512,1024", help="[128,512,1024]")
    parsed.add_argument("--genlen", default="64", help="steps per pass [64]")
    parsed.add_argument("--seconds", default="6", help="max_seconds of a run [6]")
    parsed.add_argument("--models", default=",".join(MODELS), help=f"[{','.join(MODELS)}]")
    parsed.add_argument("--cpu", action="store_true", help="ttt-tiny on the CPU, without ceilings, for trying it out")
    return parsed


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    known = ON_CPU if arguments.cpu else MODELS
    chosen = [name for name in arguments.models.split(",") if name in known or not arguments.cpu]
    if not chosen or not set(chosen) <= set(known) or not all(b.isdigit() for b in arguments.batches.split(",")):
        print(f"--models takes any of {', '.join(known)}, --batches whole numbers, comma-separated", file=sys.stderr)
        return 2
    began, folder = datetime.now(UTC), arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    common = {"genlen": arguments.genlen, "max_seconds": arguments.seconds}
    common |= {"device": "cpu"} if arguments.cpu else COMMON
    try:
        ceilings = "has no ceilings: a CPU" if arguments.cpu else ensure_ceilings()
    except TTTError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"the GPU {ceilings}", flush=True)
    batches = [int(batch) for batch in arguments.batches.split(",")]
    rows = make_rows(folder / "runs", {name: known[name] for name in chosen}, common, batches)
    missing = sum(isinstance(run, str) for _, _, run in rows)
    if missing == len(rows):
        print("nothing could be measured", file=sys.stderr)
        return 2
    command = "python -m benchmarks.roofline_table " + " ".join(sys.argv[1:] if words is None else words)
    (folder / "roofline.md").write_text(document(rows, ceilings, command, began))
    print(f"written: {folder / 'roofline.md'}")
    return 1 if missing else 0


def part_of_it(words: Sequence[str]) -> int | None:
    """The work of the processes that this script starts; None for the script itself."""
    if list(words) == ["--ceilings"]:
        try:
            print_ceilings()
        except TTTError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        return 0
    if len(words) == 2 and words[0] == "--order":
        order = json.loads(words[1])
        print(json.dumps(run_batches(Path(order["logdir"]), order["asked"], order["batches"])))
        return 0
    return None


if __name__ == "__main__":
    code = part_of_it(sys.argv[1:])
    sys.exit(main() if code is None else code)

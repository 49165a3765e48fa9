"""Causes faults on a GPU that make a measurement invalid, and checks whether the verdict finds them.

``python -m benchmarks.faults OUTPUT_FOLDER [NAME ...]`` makes one real run for each fault (all, or those named). It
prints the expected and the actual verdicts, and writes OUTPUT_FOLDER/faults.txt; the records are in OUTPUT_FOLDER/runs.
A program cannot cause thermal slowdown, power brake, ECC errors or a clock drop; these are tested with composed
samples. Exit code 0 if every verdict was as expected, 1 if not, 2 if nothing could be measured.
"""

import argparse
import csv
import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.neighbor import HELD_BYTES, neighbor
from benchmarks.runs import facts_of, record
from benchmarks.spin import Schedule, register_spinning
from ttt_mlflow.errors import TTTError
from ttt_mlflow.record.journal import Journal

PROCESSES = "telemetry/processes.csv"


@dataclass(frozen=True)
class Fault:
    """A fault, and its run.

    reason: the reason that ``ttt.reasons`` must have; None if the run must be valid.
    asked: parameters of the run in addition to the common ones. schedule: the waits of the model's steps, if any.
    other: the activity of another process on the GPU. ``named``: whether the record must name such a process.
    """

    name: str
    reason: str | None
    asked: dict[str, str] = field(default_factory=dict)
    schedule: Schedule | None = None
    other: str | None = None
    named: bool = False


def noise(step_us: float) -> Schedule:
    """The steps of each pass have their own wait, up to the length of a step: a spread of about 20 %."""
    return lambda number: step_us * float(np.random.default_rng(number).random())


def growth(step_us: float) -> Schedule:
    """Each pass takes longer than the previous one, by half a percent of the first."""
    return lambda number: 0.005 * step_us * number


def faults(step_us: float) -> list[Fault]:
    """The faults that can be caused. ``step_us``: time of a step without a fault."""
    counted = {"warmup": "3", "repeats": "20"}  # a fixed number of passes
    return [
        Fault("no fault", None),
        Fault("another process computes", "other_process", other="compute", named=True),
        Fault("another process holds memory", None, other="hold", named=True),
        Fault("too short a section", "short_section", asked={"warmup": "3", "repeats": "2", "genlen": "4"}),
        Fault("too wide an interval", "wide_interval", asked=counted, schedule=noise(step_us)),
        Fault("drift", "drift", asked=counted, schedule=growth(step_us)),
    ]


@dataclass(frozen=True)
class Judged:
    """The result of a fault's run."""

    fault: Fault
    journal_id: str
    verdict: str
    reasons: list[str]
    processes: list[str]  # other processes on the GPU that the record names
    remarks: list[str]  # differences from the expected verdict; empty if there are none

    @property
    def line(self) -> str:
        expected = f"invalid: {self.fault.reason}" if self.fault.reason else "valid"
        judged = f"{self.verdict}: {', '.join(self.reasons)}" if self.reasons else self.verdict
        named = f"; processes named: {', '.join(self.processes)}" if self.processes else ""
        remarks = f" ({'; '.join(self.remarks)})" if self.remarks else ""
        return f"{'MISS' if self.remarks else 'OK':4}  {self.fault.name}: expected {expected}, {judged}{named}{remarks}"


def judge(fault: Fault, journal: Journal, pid: int | None = None) -> Judged:
    """Compare the run's verdict with the expected one. ``pid``: the other process that was started."""
    tags = journal.tags
    verdict = tags.get("ttt.verdict", "not judged")
    reasons = [reason for reason in tags.get("ttt.reasons", "").split(",") if reason]
    rows = _processes(journal)
    remarks = []
    if verdict != ("invalid" if fault.reason else "valid"):
        remarks.append(f"the verdict is {verdict}")
    if fault.reason and fault.reason not in reasons:
        remarks.append(f"{fault.reason} is not among the reasons")
    if fault.named and not any(_is_the_one(row, pid, fault.other) for row in rows):
        remarks.append(f"{PROCESSES} does not name the other process")
    processes = [f"{row.get('pid')} with {_gigabytes(row)}" for row in rows]
    return Judged(fault, journal.journal_id, verdict, reasons, processes, remarks)


def _processes(journal: Journal) -> list[dict[str, str]]:
    path = journal.artifacts / PROCESSES
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _is_the_one(row: dict[str, str], pid: int | None, doing: str | None) -> bool:
    """Identify the process by its pid or, if NVML's pids are those of another container, by its activity."""
    does_so = _bytes(row) >= HELD_BYTES if doing == "hold" else float(row.get("sm_utilization_pct") or 0) > 0
    return row.get("pid") == str(pid) or does_so


def _bytes(row: dict[str, str]) -> float:
    """The memory that the process holds; 0 if the GPU does not report it."""
    return float(row.get("memory_bytes") or 0)


def _gigabytes(row: dict[str, str]) -> str:
    return f"{_bytes(row) / 1e9:.2f} GB" if row.get("memory_bytes") else "memory unknown"


def make_run(fault: Fault, logdir: Path, asked: dict[str, str], device: str) -> Judged:
    """Cause ``fault`` in a run of ``asked`` and judge it."""
    settings = asked | fault.asked
    if fault.schedule:
        suffix = fault.name.replace(" ", "-")
        settings["model_name"] = register_spinning(asked["model_name"], suffix, fault.schedule)
    beside: AbstractContextManager[int | None] = neighbor(fault.other, device) if fault.other else nullcontext()
    with beside as pid:
        journal = record(logdir, settings)
    gc.collect()
    return judge(fault, journal, pid)


def run_all(
    chosen: Sequence[str], logdir: Path, asked: dict[str, str], device: str, say: Callable[[str], None]
) -> list[Judged]:
    """Run the named faults (default: all). The run without a fault is first and gives the time of a step."""
    plain = faults(0.0)[0]
    judged = [make_run(plain, logdir, asked, device)]
    say(judged[0].line)
    step_us = 1e3 * Journal.open(logdir / judged[0].journal_id).metrics["decode_step_ms_p50"]
    for fault in faults(step_us)[1:]:
        if not chosen or fault.name in chosen:
            try:
                judged.append(make_run(fault, logdir, asked, device))
            except TTTError as error:
                judged.append(Judged(fault, "no record", "no run", [], [], [str(error)]))
            say(judged[-1].line)
    return judged


def parser() -> argparse.ArgumentParser:
    names = [fault.name for fault in faults(0.0)]
    parsed = argparse.ArgumentParser("python -m benchmarks.faults", description=__doc__.split("\n\n")[0])
    parsed.add_argument("folder", type=Path, metavar="OUTPUT_FOLDER")
    parsed.add_argument("names", nargs="*", metavar="NAME", help="faults to cause: " + "; ".join(names) + " [all]")
    parsed.add_argument("--model", default="ttt-1b", help="[ttt-1b]")
    parsed.add_argument("--batch", type=int, default=128, help="[128]")
    parsed.add_argument("--genlen", type=int, default=256, help="steps per pass [256]")
    parsed.add_argument("--seconds", type=float, default=10.0, help="max_seconds of a run [10]")
    parsed.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other parameter of a run")
    parsed.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: for trying it out; runs on a CPU are never valid",
    )
    return parsed


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    unknown = set(arguments.names) - {fault.name for fault in faults(0.0)}
    if unknown or any("=" not in pair for pair in arguments.set):
        print(f"no such fault: {', '.join(unknown)}" if unknown else "--set takes NAME=VALUE", file=sys.stderr)
        return 2
    asked = {
        "model_name": arguments.model,
        "batch": str(arguments.batch),
        "genlen": str(arguments.genlen),
        "max_seconds": str(arguments.seconds),
        "device": arguments.device,
    } | dict(pair.split("=", 1) for pair in arguments.set)
    began = datetime.now(UTC)
    logdir = arguments.folder.resolve() / "runs"
    try:
        judged = run_all(arguments.names, logdir, asked, arguments.device, lambda line: print(line, flush=True))
    except TTTError as error:
        print(error, file=sys.stderr)
        return 2
    first = Journal.open(logdir / judged[0].journal_id)
    command = "python -m benchmarks.faults " + " ".join(sys.argv[1:] if words is None else words)
    how = {"date": f"{began:%Y-%m-%d %H:%M} UTC", "command": command, "configuration": first.run_name}
    lines = [f"{name}: {value}" for name, value in (how | facts_of(first)).items()]
    text = "\n".join([*lines, "", *(f"{one.line}  [{one.journal_id}]" for one in judged)]) + "\n"
    (arguments.folder / "faults.txt").write_text(text)
    missed = sum(bool(one.remarks) for one in judged)
    print(f"{len(judged) - missed} of {len(judged)} as expected")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Is one version of the code as fast as another? `python -m benchmarks.two_versions BASELINE CANDIDATE OUTPUT`.

BASELINE and CANDIDATE are folders that hold a version of the package ttt_mlflow. Each configuration is measured in
turns, baseline, candidate, candidate, baseline, each run in a process of its own: a drift of the GPU falls on both. Two
such rounds make four runs a side, which are enough where the run-to-run variance was not measured before. The program
speaks to a version by its command line and by the record that this leaves, so any version can be a side.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.runs import facts_of
from ttt_mlflow.errors import BadInput, RunFailed, TTTError
from ttt_mlflow.measurement.comparison import answers, compare, known_run_to_run, power_capped
from ttt_mlflow.names import POWER_W_MEAN, SM_CLOCK_MHZ_MEAN, TAG_VERDICT
from ttt_mlflow.record.journal import Journal, find_journals
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import LocalRun

ORDER = ("baseline", "candidate", "candidate", "baseline")
RESOLUTION_PCT = 1.0  # a wider confidence interval that includes 0 says nothing
SHOWN_LINES = 15  # of what a run printed that failed


@dataclass(frozen=True)
class Measured:
    """One run: its side, and the tokens/s of its complete passes."""

    side: str
    journal: Journal
    rates: list[float]

    @property
    def verdict(self) -> str:
        return self.journal.tags.get(TAG_VERDICT.name, "no verdict")

    @property
    def conditions(self) -> str:
        """The verdict, and the SM clock and power if they were measured: a difference may be theirs, not the code's."""
        metrics = self.journal.metrics
        read = [(metrics.get(metric.name), metric.unit) for metric in (SM_CLOCK_MHZ_MEAN, POWER_W_MEAN)]
        return ", ".join([self.verdict, *(f"{value:,.0f} {unit}" for value, unit in read if value is not None)])


def measure(side: str, folder: Path, asked: dict[str, Any], output: Path) -> Measured:
    """Measure ``asked`` with the version in ``folder``; raise RunFailed with the end of what it printed."""
    logdir = output / side
    logdir.mkdir(parents=True, exist_ok=True)
    before = {journal.path for journal in find_journals(logdir)}
    options = [f"--{name}={value}" for name, value in {**asked, "logdir": logdir}.items()]
    command = [sys.executable, "-m", "ttt_mlflow", "run", *options]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{output}/mlflow.db"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    new = [journal for journal in find_journals(logdir) if journal.path not in before]
    if done.returncode or len(new) != 1:
        printed = "\n".join((done.stdout + done.stderr).strip().splitlines()[-SHOWN_LINES:])
        raise RunFailed(f"{side}: {' '.join(command)} ended with code {done.returncode}:\n{printed}")
    return Measured(side, new[0], throughputs(LocalRun(new[0])))


def compared(runs: Sequence[Measured]) -> str:
    """The answer, the change of the candidate against the baseline, and what stands in the way of an answer."""
    gpu_name = facts_of(runs[0].journal).get("gpu_name")
    known = known_run_to_run(gpu_name, any(power_capped(run.journal.metrics) for run in runs))
    sides = {side: [run.rates for run in runs if run.side == side] for side in set(ORDER)}
    comparison = compare(sides["baseline"], sides["candidate"], run_to_run=known, resolution_pct=RESOLUTION_PCT)
    (answer,) = answers([comparison], RESOLUTION_PCT)
    return f"{answer}: {comparison}" + (f" ({comparison.missing})" if comparison.missing else "")


def line(asked: dict[str, Any], runs: Sequence[Measured]) -> str:
    """One configuration for people: each run's median and conditions, and the comparison."""
    name = ", ".join(str(asked[key]) for key in ("model_name", "inner_net", "batch"))
    medians = [f"{run.side} {sorted(run.rates)[len(run.rates) // 2]:,.0f} ({run.conditions})" for run in runs]
    return f"{name}: {compared(runs)}\n    {'; '.join(medians)}"


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser("python -m benchmarks.two_versions", description=__doc__.split("\n\n")[0])
    parsed.add_argument("baseline", type=Path, help="folder that holds a version of ttt_mlflow")
    parsed.add_argument("candidate", type=Path, help="folder that holds another one")
    parsed.add_argument("output", type=Path, help="folder for the records and two_versions.txt")
    parsed.add_argument("--model", default="ttt-1b", help="[ttt-1b]")
    parsed.add_argument("--inner-nets", default="mlp_1_dual_triton,mlp_2_dual_triton", help="[both Triton inner nets]")
    parsed.add_argument("--batches", default="128,1024", help="[128,1024]")
    parsed.add_argument("--genlen", type=int, default=128, help="decode steps of a pass [128]")
    parsed.add_argument("--seconds", type=float, default=10.0, help="max_seconds of a run [10]")
    parsed.add_argument("--rounds", type=int, default=1, help="of four runs for each configuration [1]")
    parsed.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other parameter of a run")
    return parsed


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    output = arguments.output.absolute()
    folders = {side: getattr(arguments, side).absolute() for side in set(ORDER)}
    others = dict(setting.split("=", 1) for setting in arguments.set)
    try:
        for side, folder in folders.items():
            if not (folder / "ttt_mlflow/__main__.py").is_file():
                raise BadInput(f"{side}={folder}: holds no package ttt_mlflow; name the folder of a checkout")
        output.mkdir(parents=True, exist_ok=True)
        lines = [
            f"$ python -m benchmarks.two_versions {' '.join(sys.argv[1:] if words is None else words)}",
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        ]
        for inner_net, batch in product(arguments.inner_nets.split(","), arguments.batches.split(",")):
            asked = {"model_name": arguments.model, "inner_net": inner_net, "batch": batch}
            asked |= {"genlen": arguments.genlen, "max_seconds": arguments.seconds, **others}
            runs = [measure(side, folders[side], asked, output) for side in ORDER * arguments.rounds]
            if len(lines) == 2:
                lines.append(", ".join(f"{name} {fact}" for name, fact in facts_of(runs[0].journal).items()))
            lines.append(line(asked, runs))
            print("\n".join(lines[-1:]), flush=True)
            (output / "two_versions.txt").write_text("\n".join([*lines, ""]))
    except TTTError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures how far equal runs differ, and checks whether they compare as equal and a slowdown of 1 % is found.

``python -m benchmarks.repeatability OUTPUT_FOLDER`` makes runs of one configuration and, between them, runs of the same
configuration with a wait in the decode step. Each has its own process or, with ``--in-process``, its own model, capture
and warm-up in this process. It writes OUTPUT_FOLDER/repeatability.json, .txt and .png, again after every slow run; the
records are in OUTPUT_FOLDER/runs. Exit code 0 if all requirements are met, 1 if not, 2 if it could not be measured.

With ``--base-only`` there are no slow runs. The standard deviation of the medians, and whether the power cap was
active, is what ttt_mlflow/measurement/comparison.py knows of a kind of GPU.
"""

import argparse
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import chi2

from benchmarks.calibrate import Calibration, calibrate
from benchmarks.runs import Order, facts_of, last_line, record, record_order, register_slowed
from ttt_mlflow.errors import TTTError
from ttt_mlflow.measurement.comparison import POWER_CAPPED_PCT, RunToRun, answers, compare
from ttt_mlflow.measurement.statistics import median_confidence_interval
from ttt_mlflow.names import CLOCK_EVENT_PCT
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.process import age_s
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.report.text import text_table

MEDIANS_WITHIN_PCT = 0.5
FALSE_ALARMS_MOST = 1 / 20
FOUND_LEAST = 19 / 20
RUN_TO_RUN_PCT = 0.18  # standard deviation of the medians for the comparisons, unless told otherwise
RESOLUTION_PCT = 1.0
BASE, SLOW = "base", "slow"


@dataclass(frozen=True)
class Run:
    """One run: its kind, the tokens/s of its complete passes, and its verdict.

    power_cap_pct: share of the measured section at the software power cap; None where it was not sampled.
    """

    kind: str
    journal_id: str
    tokens_per_s: list[float]
    verdict: str
    reasons: str
    power_cap_pct: float | None = None

    @classmethod
    def of(cls, kind: str, journal: Journal) -> "Run":
        tags = journal.tags
        verdict, reasons = tags.get("ttt.verdict", "not judged"), tags.get("ttt.reasons", "")
        capped = journal.metrics.get(CLOCK_EVENT_PCT["sw_power_cap"].name)
        return cls(kind, journal.journal_id, throughputs(LocalRun(journal)), verdict, reasons, capped)

    @property
    def median(self) -> float:
        return float(np.median(self.tokens_per_s))


@dataclass(frozen=True)
class Count:
    """``hits`` of ``pairs`` comparisons."""

    hits: int
    pairs: int

    @property
    def share(self) -> float:
        return self.hits / self.pairs

    def __str__(self) -> str:
        return f"{self.hits} of {self.pairs} ({100 * self.share:.1f} %)"


@dataclass(frozen=True)
class Outcome:
    """The results of the runs. Invalid runs are left out, as in every comparison.

    spread_pct: difference between the largest and the smallest base median, in percent.
    deviation_pct: standard deviation of the logarithms of the base medians, in percent, with the ends of its 95 %
    confidence interval. capped: base runs at the software power cap; None if a run was not sampled.
    slowdown_pct: difference between the medians of the base runs and the slow runs.
    """

    left_out: list[str]
    spread_pct: float
    deviation_pct: tuple[float, float, float]
    capped: Count | None
    slowdown_pct: float | None
    base_pairs: Count
    neighbors: Count
    found_one_each: Count | None
    found_all: Count | None

    @property
    def checks(self) -> list[tuple[str, bool]]:
        """The requirements with the measured values, and whether each is met."""
        checks = [
            (
                f"base medians within {MEDIANS_WITHIN_PCT:g} % of each other: {self.spread_pct:.3f} %",
                self.spread_pct <= MEDIANS_WITHIN_PCT,
            ),
            (
                f"a difference called between two base runs in at most 1 of 20: {self.base_pairs}",
                self.base_pairs.share <= FALSE_ALARMS_MOST,
            ),
        ]
        for name, found in (("the base run before it", self.found_one_each), ("every base run", self.found_all)):
            if found:
                text = f"the slowdown found in at least 19 of 20, against {name}: {found}"
                checks.append((text, found.share >= FOUND_LEAST))
        return checks

    @property
    def passed(self) -> bool:
        return all(holds for _, holds in self.checks)


def evaluate(runs: Sequence[Run], run_to_run_pct: float) -> Outcome:
    """Compare the runs, which are in the order of time. Raises TTTError with fewer than two base runs."""
    judged = [run for run in runs if run.verdict != "invalid"]
    left_out = [f"{run.journal_id} ({run.kind}): {run.reasons}" for run in runs if run.verdict == "invalid"]
    base, slow = ([run for run in judged if run.kind == kind] for kind in (BASE, SLOW))
    if len(base) < 2:
        said = "; ".join(left_out) or "none was left out"
        raise TTTError(f"{len(base)} base runs cannot be compared with each other (left out: {said})")

    known = RunToRun(run_to_run_pct, "--run-to-run-pct")

    def answer(one: Run, other: Run) -> str:
        return answers([compare([one.tokens_per_s], [other.tokens_per_s], run_to_run=known)], RESOLUTION_PCT)[0]

    def count(pairs: Sequence[tuple[Run, Run]], *words: str) -> Count:
        return Count(sum(answer(*pair) in words for pair in pairs), len(pairs))

    medians, shares = [run.median for run in base], [run.power_cap_pct for run in base]
    # a slow run compared with the previous base run
    one_each = [(before, run) for before, run in pairwise(judged) if (before.kind, run.kind) == (BASE, SLOW)]
    return Outcome(
        left_out,
        100 * (max(medians) / min(medians) - 1),
        deviation(medians),
        None if None in shares else Count(sum(share > POWER_CAPPED_PCT for share in shares if share), len(base)),
        100 * (1 - float(np.median([run.median for run in slow])) / float(np.median(medians))) if slow else None,
        count(list(combinations(base, 2)), "faster", "slower"),
        count(list(pairwise(base)), "faster", "slower"),
        count(one_each, "slower") if one_each else None,
        count(list(product(base, slow)), "slower") if slow else None,
    )


def deviation(medians: Sequence[float]) -> tuple[float, float, float]:
    """The standard deviation of the logarithms in percent, and the ends of its 95 % confidence interval (χ²)."""
    freedom = len(medians) - 1
    found = 100 * float(np.std(np.log(medians), ddof=1))
    low, high = (found * (freedom / float(chi2.ppf(share, freedom))) ** 0.5 for share in (0.975, 0.025))
    return found, low, high


# Making the runs


def settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The common configuration of all runs."""
    asked = {
        "model_name": arguments.model,
        "batch": str(arguments.batch),
        "genlen": str(arguments.genlen),
        "max_seconds": str(arguments.seconds),
        "precision_pct": str(arguments.precision_pct),
    }
    return asked | dict(pair.split("=", 1) for pair in arguments.set)


def prepare(arguments: argparse.Namespace) -> Calibration | None:
    """The wait of the slow runs, calibrated in a separate process unless all runs are in this one.

    None: no slow runs are asked for.
    """
    if arguments.base_only:
        return None
    asked = settings(arguments)
    if arguments.in_process:
        return calibrate(asked, arguments.slowdown_pct)
    # a process that has used the GPU would keep a context on it during the measurements
    text = last_line("benchmarks.calibrate", json.dumps(asked), str(arguments.slowdown_pct))
    return Calibration(**json.loads(text))


def make_runs(arguments: argparse.Namespace, waits: Calibration | None) -> Iterator[Run]:
    """Base and slow runs in turn; without ``waits`` base runs only.

    Raises TTTError for a run that cannot be measured.
    """
    asked, logdir = settings(arguments), arguments.folder / "runs"
    slowed = asked
    if waits and arguments.in_process:
        slowed = {**asked, "model_name": register_slowed(arguments.model, waits.wait_us)}
    for _ in range(arguments.runs):
        for kind in kinds(arguments):
            if arguments.in_process:
                gc.collect()
                yield Run.of(kind, record(logdir, slowed if kind == SLOW else asked))
            else:
                wait_us = waits.wait_us if waits and kind == SLOW else None
                yield Run.of(kind, record_order(Order(str(logdir), asked, wait_us)))


def kinds(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The kinds of runs that are made in turn."""
    return (BASE,) if arguments.base_only else (BASE, SLOW)


# Output


def summary(outcome: Outcome, runs: Sequence[Run], how: dict[str, Any]) -> str:
    """The result as text: how the runs were made, each run, the conclusions, and which requirements are met."""
    rows = []
    for run in runs:
        low, high = median_confidence_interval(run.tokens_per_s) or (float("nan"), float("nan"))
        interval = f"[{low:,.1f}, {high:,.1f}]"
        verdict = f"{run.verdict} {run.reasons}".strip()
        capped = "–" if run.power_cap_pct is None else f"{run.power_cap_pct:.0f} %"
        rows.append((run.kind, f"{run.median:,.1f}", interval, str(len(run.tokens_per_s)), capped, verdict))
    columns = ("run", "tokens/s", "95 % confidence interval", "passes", "power cap", "verdict")
    slowdown = "" if outcome.slowdown_pct is None else f"slow runs made {outcome.slowdown_pct:.2f} % fewer tokens/s"
    lines = [
        *(f"{name}: {value}" for name, value in how.items()),
        "",
        text_table(columns, rows, columns[1:5]),
        "",
        *(f"left out, invalid: {line}" for line in outcome.left_out),
        f"neighboring base runs called different: {outcome.neighbors}",
        "standard deviation of the base medians: {:.3f} % [{:.3f}, {:.3f}]".format(*outcome.deviation_pct),
        f"base runs at the software power cap: {'not sampled' if outcome.capped is None else outcome.capped}",
        slowdown,
        "",
        *(f"{'PASS' if holds else 'MISS'}  {text}" for text, holds in outcome.checks),
    ]
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[Run], path: Path) -> None:
    """The medians with their confidence intervals, in the order of time."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for kind, color in ((BASE, "C0"), (SLOW, "C1")):
        numbers = [number for number, run in enumerate(runs, 1) if run.kind == kind]
        shown = [run for run in runs if run.kind == kind]
        if not shown:
            continue
        medians = [run.median for run in shown]
        ends = [median_confidence_interval(run.tokens_per_s) or (run.median, run.median) for run in shown]
        lengths = [[m - low for m, (low, _) in zip(medians, ends, strict=True)]]
        lengths += [[high - m for m, (_, high) in zip(medians, ends, strict=True)]]
        axes.errorbar(numbers, medians, yerr=lengths, fmt="o", ms=4, capsize=3, color=color, label=f"{kind} runs")
        axes.axhline(float(np.median(medians)), color=color, lw=0.8, ls="--")
    axes.set(xlabel="run, in the order of time", ylabel="tokens/s")
    axes.set_title("Medians of the passes with their 95 % confidence intervals; dashed: the median of the runs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.2)
    axes.legend()
    figure.savefig(path, dpi=130)


def write(folder: Path, outcome: Outcome, runs: Sequence[Run], how: dict[str, Any]) -> str:
    """Write the three files. Returns the summary."""
    text = summary(outcome, runs, how)
    checks = [{"asked": asked, "holds": holds} for asked, holds in outcome.checks]
    everything = {"how": how, "outcome": asdict(outcome), "checks": checks, "runs": [asdict(run) for run in runs]}
    (folder / "repeatability.json").write_text(json.dumps(everything, indent=1))
    (folder / "repeatability.txt").write_text(text)
    draw(runs, folder / "repeatability.png")
    return text


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser("python -m benchmarks.repeatability", description=__doc__.split("\n\n")[0])
    parsed.add_argument("folder", type=Path, metavar="OUTPUT_FOLDER")
    parsed.add_argument("--runs", type=int, default=20, help="of each kind [20]")
    parsed.add_argument("--slowdown-pct", type=float, default=1.0, help="slowdown of the slow runs' steps [1.0]")
    parsed.add_argument("--model", default="ttt-1b", help="[ttt-1b]")
    parsed.add_argument("--batch", type=int, default=128, help="[128]")
    parsed.add_argument("--genlen", type=int, default=128, help="steps per pass [128]")
    parsed.add_argument("--seconds", type=float, default=6.0, help="max_seconds of a run [6]")
    # with a precision of half a percent, medians need not agree within half a percent
    parsed.add_argument("--precision-pct", type=float, default=0.2, help="precision_pct of a run [0.2]")
    parsed.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other parameter of a run")
    help_text = f"standard deviation of runs' medians that the comparisons assume [{RUN_TO_RUN_PCT}]"
    parsed.add_argument("--run-to-run-pct", type=float, default=RUN_TO_RUN_PCT, help=help_text)
    parsed.add_argument("--base-only", action="store_true", help="no slow runs: only how far equal runs differ")
    parsed.add_argument("--in-process", action="store_true", help="all runs in one process, each built again")
    return parsed


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    arguments.words = sys.argv[1:] if words is None else list(words)
    if arguments.runs < 2 or not arguments.slowdown_pct > 0 or any("=" not in pair for pair in arguments.set):
        print("--runs takes a number from 2, --slowdown-pct one above 0, --set NAME=VALUE", file=sys.stderr)
        return 2
    began = datetime.now(UTC)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    arguments.folder = arguments.folder.resolve()
    runs: list[Run] = []
    try:
        waits = prepare(arguments)
        if waits:
            said = f"a step of a slow run waits {waits.wait_us:.2f} µs; measured: {waits.seen_pct:.2f} % longer"
            print(said, flush=True)
        in_turn = len(kinds(arguments))
        for run in make_runs(arguments, waits):
            runs.append(run)
            said = f"{run.median:,.1f} tokens/s, passes: {len(run.tokens_per_s)}, {run.verdict} {run.reasons}"
            print(f"{run.kind} run {-(-len(runs) // in_turn)} of {arguments.runs}: {said}".rstrip(), flush=True)
            if len(runs) % in_turn == 0 and len(runs) < in_turn * arguments.runs:
                keep(arguments, waits, runs, began)
        outcome = evaluate(runs, arguments.run_to_run_pct)
    except TTTError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n" + write(arguments.folder, outcome, runs, how_made(arguments, waits, runs, began)))
    return 0 if outcome.passed else 1


def keep(arguments: argparse.Namespace, waits: Calibration | None, runs: Sequence[Run], began: datetime) -> None:
    """Write the results so far, so that an early end keeps them."""
    if sum(run.kind == BASE and run.verdict != "invalid" for run in runs) >= 2:
        outcome = evaluate(runs, arguments.run_to_run_pct)
        write(arguments.folder, outcome, runs, how_made(arguments, waits, runs, began))


def how_made(
    arguments: argparse.Namespace, waits: Calibration | None, runs: Sequence[Run], began: datetime
) -> dict[str, Any]:
    """When, where and how the runs were made."""
    first = Journal.open(arguments.folder / "runs" / runs[0].journal_id)
    waited = {}
    if waits:
        waited = {
            "wait in a slow run's step": f"{waits.wait_us:.2f} µs of {waits.step_us:.1f} µs, the launch not counted",
            "slowdown when tried out": f"{waits.seen_pct:.2f} %",
        }
    return {
        "date": f"{began:%Y-%m-%d %H:%M} UTC, {age_s():.0f} s in all",
        "command": f"python -m benchmarks.repeatability {' '.join(arguments.words)}",
        "runs": f"{len(runs)} of {len(kinds(arguments)) * arguments.runs}",
        "runs were made": "all in one process" if arguments.in_process else "each in its own process",
        "configuration": first.run_name,
        **waited,
        "run_to_run_pct of the comparisons": arguments.run_to_run_pct,
        **facts_of(first),
    }


if __name__ == "__main__":
    sys.exit(main())

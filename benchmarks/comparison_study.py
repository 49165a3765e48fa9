"""How often does a comparison call equal runs different, and how often does it find a change of 1 %?

``python -m benchmarks.comparison_study OUTPUT`` compares recorded runs of one configuration with each other, simulated
runs, and six runs that it makes on this CPU. It prints a table and writes it to OUTPUT/comparison_study.txt. Exit code
0 if all requirements are met, 1 if not, 2 if it could not be done.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.runs import FACTS, ROOT, Order, facts_of, record_order
from ttt_mlflow.errors import BadInput, TTTError
from ttt_mlflow.measurement.comparison import (
    REPETITIONS_LEAST,
    Comparison,
    RunToRun,
    answers,
    compare,
    known_run_to_run,
    power_capped,
)
from ttt_mlflow.measurement.statistics import median_confidence_interval
from ttt_mlflow.names import TAG_VERDICT
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.report.text import text_table
from ttt_mlflow.telemetry.host import host_facts

FALSE_ALARMS_MOST = 0.06
FOUND_LEAST = 0.95
RESOLUTION_PCT = 1.0
SLOWED = 1 - RESOLUTION_PCT / 100
SIZES = ((1, 1), (2, 2), (3, 3), (4, 4), (1, 4), (3, 6))  # runs of the baseline and of the candidate
HOLM_PAIRS = 8
REPEAT_WITHIN = 0.1e-2  # a GPU whose runs repeat well: the standard deviation of the logarithms of the medians
AT_THE_CAP = (0.3e-2, 0.6e-2, 1e-2)
PASSES, SCATTER = 6, 0.05e-2  # of a simulated run; an H200's passes scatter by as much
CPU_RUNS = {"model_name": "ttt-125m", "batch": 2, "genlen": 16, "device": "cpu", "max_seconds": 3}
CPU_COUNT = 6
RESULTS = ROOT / "benchmarks/results/2026-11-23-h200"
# texts from before repeatability printed it: whether the runs were at the software power cap
OLDER_TEXTS = {RESULTS / "repeatability-1.txt": True, RESULTS / "repeatability-2.txt": False}
NUMBER = r"([\d,]+\.?\d*)"
ROW = re.compile(rf"^\s*base\s+{NUMBER}\s+\[{NUMBER}, {NUMBER}\]\s+(\d+)\s.*\b(?:valid|unjudged)\b", re.MULTILINE)
GPU = re.compile(r"^gpu_name: (.+)$", re.MULTILINE)
CAPPED = re.compile(r"^base runs at the software power cap: (\d+) of", re.MULTILINE)

Run = np.ndarray
Sides = tuple[list[Run], list[Run]]


@dataclass(frozen=True)
class Recorded:
    """Runs of one configuration: the tokens/s of their passes, and the run-to-run variance known of their GPU."""

    name: str
    runs: list[Run]
    known: RunToRun | None
    capped: bool  # at the software power cap, where one run a side need not find 1 %


@dataclass(frozen=True)
class Result:
    """``hits`` of ``cases``; at least ``least`` or at most ``most`` are asked for, or neither."""

    text: str
    hits: int
    cases: int
    most: float | None = None
    least: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool:
        share = self.hits / self.cases
        return (self.most is None or share <= self.most) and (self.least is None or share >= self.least)

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        asked = "" if self.most is None else f"at most {100 * self.most:g} %"
        asked = asked if self.least is None else f"at least {100 * self.least:g} %"
        said = ("PASS" if self.holds else "MISS") if asked else ""
        seen = f"{self.hits:,} of {self.cases:,} ({100 * self.hits / self.cases:.1f} %)"
        return said, self.text, seen, asked, self.note


# Recorded runs


def recorded(path: Path) -> Recorded:
    """The runs of a folder of records, or the base runs of a text or JSON file of benchmarks.repeatability.

    Invalid runs are left out. Raises BadInput for a file without runs and for records of several configurations.
    """
    if path.is_dir():
        return _from_records(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file or folder; name records or an output of benchmarks.repeatability")
    text = path.read_text()
    if path.suffix == ".json":
        return _from_json(path, text)
    rows = [[float(found.replace(",", "")) for found in row] for row in ROW.findall(text)]
    runs = [rebuilt(median, low, high, int(passes)) for median, low, high, passes in rows]
    gpu, capped = GPU.search(text), CAPPED.search(text)
    if not runs or not (capped or path in OLDER_TEXTS):
        raise BadInput(f"{path}: not a text of benchmarks.repeatability with the power cap; name its JSON file")
    was_capped = int(capped[1]) > 0 if capped else OLDER_TEXTS[path]
    return Recorded(_name(path), runs, known_run_to_run(gpu[1] if gpu else None, was_capped), was_capped)


def _from_json(path: Path, text: str) -> Recorded:
    everything = json.loads(text)
    kept = [run for run in everything["runs"] if run["kind"] == "base" and run["verdict"] != "invalid"]
    capped = power_capped({"clock_event_sw_power_cap_pct": max(run.get("power_cap_pct") or 0.0 for run in kept)})
    known = known_run_to_run(everything["how"].get("gpu_name"), capped)
    return Recorded(_name(path), [np.array(run["tokens_per_s"]) for run in kept], known, capped)


def _from_records(path: Path) -> Recorded:
    journals = [journal for journal in find_journals(path).journals if journal.tags.get(TAG_VERDICT.name) != "invalid"]
    names = {journal.run_name for journal in journals}
    if len(names) != 1:
        raise BadInput(f"{path}: holds {len(names)} configurations of runs that are not invalid; one is needed")
    capped = any(power_capped(journal.metrics) for journal in journals)
    known = known_run_to_run(facts_of(journals[0]).get("gpu_name"), capped)
    return Recorded(names.pop(), [np.array(throughputs(LocalRun(journal))) for journal in journals], known, capped)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def rebuilt(median: float, low: float, high: float, passes: int) -> Run:
    """Passes with this median and this 95 % confidence interval, which is what a text has of a run."""
    shape = np.linspace(-1, 1, passes)
    shape[(passes - 1) // 2 : passes // 2 + 1] = 0  # the one or two in the middle are the median
    small = 1e-3
    interval = median_confidence_interval(np.exp(small * shape))
    assert interval is not None
    reach = np.log(interval[1]) / small
    scale = np.where(shape < 0, np.log(median / low), np.log(high / median)) / reach
    return median * np.exp(scale * shape)


# What is compared


def drawn(rng: np.random.Generator, runs: Sequence[Run], sizes: tuple[int, int], factor: float = 1.0) -> Sides:
    """Two sides of different runs; the passes of the candidate are multiplied by ``factor``."""
    places = rng.permutation(len(runs))[: sum(sizes)]
    sides = [runs[place] for place in places]
    return sides[: sizes[0]], [factor * run for run in sides[sizes[0] :]]


def simulated(rng: np.random.Generator, count: int, deviation: float, factor: float = 1.0) -> list[Run]:
    """Runs whose medians have this standard deviation, and whose passes scatter as an H200's."""
    medians = deviation * rng.standard_normal(count)
    return [factor * np.exp(median + SCATTER * rng.standard_normal(PASSES)) for median in medians]


def answer(comparison: Comparison) -> str:
    return answers([comparison], RESOLUTION_PCT)[0]


def different(comparison: Comparison) -> bool:
    return answer(comparison) in ("faster", "slower")


def sized(sizes: tuple[int, int]) -> str:
    return f"{sizes[0]} and {sizes[1]} runs"


# (a) two runs of the same thing


def same_recorded(rng: np.random.Generator, source: Recorded, comparisons: int) -> Iterator[Result]:
    """Runs that were recorded, drawn anew for each comparison."""
    for sizes in SIZES:
        if sum(sizes) <= len(source.runs) and (source.known or min(sizes) >= REPETITIONS_LEAST):
            pairs = (drawn(rng, source.runs, sizes) for _ in range(comparisons))
            hits = sum(different(compare(*sides, run_to_run=source.known)) for sides in pairs)
            yield Result(f"{source.name}: {sized(sizes)}", hits, comparisons, most=FALSE_ALARMS_MOST)


def same_simulated(
    rng: np.random.Generator, deviation: float, known: RunToRun | None, comparisons: int
) -> Iterator[Result]:
    """Simulated runs, whose standard deviation the comparison knows or does not know."""

    def one(sizes: tuple[int, int]) -> Comparison:
        baseline, candidate = (simulated(rng, size, deviation) for size in sizes)
        return compare(baseline, candidate, run_to_run=known)

    label = f"simulated, {100 * deviation:g} %, {'known' if known else 'not known'}"
    possible = [sizes for sizes in SIZES if known or min(sizes) >= REPETITIONS_LEAST]
    for sizes in possible:
        hits = sum(different(one(sizes)) for _ in range(comparisons))
        yield Result(f"{label}: {sized(sizes)}", hits, comparisons, most=FALSE_ALARMS_MOST)
    families = (answers([one(possible[0]) for _ in range(HOLM_PAIRS)], RESOLUTION_PCT) for _ in range(comparisons))
    hits = sum(not {"faster", "slower"}.isdisjoint(family) for family in families)
    text = f"{label}: any of {HOLM_PAIRS} pairs of {sized(possible[0])}"
    yield Result(text, hits, comparisons, most=FALSE_ALARMS_MOST)


# (b) and (c) a change of 1 %


def found_at_once(rng: np.random.Generator, source: Recorded, comparisons: int) -> Iterator[Result]:
    """One run a side, with the variance that is known of the GPU: recorded runs, and runs that repeat within 0.1 %."""
    real = (drawn(rng, source.runs, (1, 1), SLOWED) for _ in range(comparisons))
    pair = ((simulated(rng, 1, REPEAT_WITHIN), simulated(rng, 1, REPEAT_WITHIN, SLOWED)) for _ in range(comparisons))
    for text, pairs in ((source.name, real), (f"simulated, {100 * REPEAT_WITHIN:g} %", pair)):
        hits = sum(answer(compare(*sides, run_to_run=source.known)) == "slower" for sides in pairs)
        yield Result(f"{text}: 1 and 1 runs", hits, comparisons, least=FOUND_LEAST)


def as_many_as_asked(rng: np.random.Generator, deviation: float, factor: float) -> Comparison:
    """Three runs a side and then, in all, as many as the comparison of these asks for."""
    factors = (1.0, factor)
    sides = [simulated(rng, REPETITIONS_LEAST, deviation, each) for each in factors]
    more = (compare(*sides, resolution_pct=RESOLUTION_PCT).runs_needed or REPETITIONS_LEAST) - REPETITIONS_LEAST
    return compare(*(side + simulated(rng, more, deviation, each) for side, each in zip(sides, factors, strict=True)))


def found_as_asked(rng: np.random.Generator, deviation: float, comparisons: int) -> Iterator[Result]:
    """With a change of 1 %, and without one."""
    text = f"simulated, {100 * deviation:g} %: as many runs as asked for"
    made = [as_many_as_asked(rng, deviation, SLOWED) for _ in range(comparisons)]
    middle, most = np.percentile([comparison.baseline_runs for comparison in made], [50, 95])
    note = f"{middle:.0f} runs a side, 95th percentile {most:.0f}"
    hits = sum(answer(comparison) == "slower" for comparison in made)
    yield Result(text, hits, comparisons, least=FOUND_LEAST, note=note)
    hits = sum(different(as_many_as_asked(rng, deviation, 1.0)) for _ in range(comparisons))
    yield Result(f"{text}, no change", hits, comparisons, note="called different; see docs/measuring.md")


# (d) a CPU that others share


def on_this_cpu(output: Path) -> Iterator[Result]:
    """Runs of one configuration, each in its own process: one run a side says nothing, three are not different."""
    journals = [record_order(Order(str(output / "runs"), CPU_RUNS)) for _ in range(CPU_COUNT)]
    runs = [np.array(throughputs(LocalRun(journal))) for journal in journals]
    medians = ", ".join(f"{np.median(run):,.1f}" for run in runs)
    pairs = list(combinations(runs, 2))
    told = sum(answer(compare([base], [other])) != "cannot tell" for base, other in pairs)
    yield Result("this CPU: 1 and 1 runs, an answer", told, len(pairs), most=0.0, note=f"tokens/s: {medians}")
    scatter = RunToRun(0, "the scatter of the passes alone")
    alone = sum(different(compare([base], [other], run_to_run=scatter)) for base, other in pairs)
    yield Result(
        "this CPU: 1 and 1 runs, by the passes alone", alone, len(pairs), note="what would be called different"
    )
    turns = compare(runs[::2], runs[1::2])
    note = f"{answer(turns)}: {turns}; {turns.runs_needed} runs a side needed for {RESOLUTION_PCT:g} %"
    yield Result("this CPU: 3 and 3 runs in turns", int(different(turns)), 1, most=0.0, note=note)


# The program


def study(arguments: argparse.Namespace, sources: Sequence[Recorded]) -> Iterator[Result | str]:
    """The results, each group after its heading."""
    rng, comparisons = np.random.default_rng(arguments.seed), arguments.comparisons
    yield "(a) equal runs called different"
    for source in sources:
        yield from same_recorded(rng, source, comparisons)
    known = RunToRun(100 * REPEAT_WITHIN, "simulated")
    yield from same_simulated(rng, REPEAT_WITHIN, known, comparisons)
    yield from same_simulated(rng, AT_THE_CAP[1], None, comparisons)
    yield "(b) a slowdown of 1 % found by one run a side"
    for source in sources:
        if source.known and not source.capped:
            yield from found_at_once(rng, source, comparisons)
    yield "(c) a slowdown of 1 % found where runs repeat badly"
    for deviation in AT_THE_CAP:
        yield from found_as_asked(rng, deviation, comparisons)
    if arguments.cpu:
        yield "(d) equal runs on this CPU"
        yield from on_this_cpu(arguments.output)


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser("python -m benchmarks.comparison_study", description=__doc__.split("\n\n")[0])
    parsed.add_argument(
        "output", type=Path, metavar="OUTPUT", help="folder for comparison_study.txt and the CPU's runs"
    )
    source_help = "folder of records, or repeatability.json or .txt; several times [the recorded runs of an H200]"
    parsed.add_argument("--recorded", type=Path, action="append", metavar="PATH", help=source_help)
    parsed.add_argument("--comparisons", type=int, default=2000, help="in each row [2000]")
    parsed.add_argument("--seed", type=int, default=0, help="of the random numbers [0]")
    parsed.add_argument("--no-cpu", dest="cpu", action="store_false", help="make no runs on this CPU")
    return parsed


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    if arguments.comparisons < 1:
        print("--comparisons takes a number from 1", file=sys.stderr)
        return 2
    arguments.output = arguments.output.absolute()
    facts = host_facts()
    lines = [
        f"command: python -m benchmarks.comparison_study {' '.join(sys.argv[1:] if words is None else words)}",
        f"date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        *(f"{name}: {facts[name]}" for name in ("cpu_cores", *FACTS) if name in facts),
    ]
    rows: list[tuple[str, str, str, str, str]] = []
    missed = 0
    try:
        sources = [recorded(path) for path in arguments.recorded or OLDER_TEXTS]
        arguments.output.mkdir(parents=True, exist_ok=True)
        for found in study(arguments, sources):
            if isinstance(found, Result):
                missed += not found.holds
                rows.append(found.row)
            else:
                rows.append(("", found, "", "", ""))
            print("  ".join(part for part in rows[-1] if part), flush=True)
    except TTTError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for source in sources:
        known = f"{source.known.pct:g} % ({source.known.source})" if source.known else "not known"
        lines.append(f"recorded: {source.name}, {len(source.runs)} runs; run-to-run standard deviation {known}")
    table = text_table(("", "case", "seen", "asked", ""), rows, ())
    text = "\n".join([*lines, "", table, "", f"requirements missed: {missed}", ""])
    (arguments.output / "comparison_study.txt").write_text(text)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

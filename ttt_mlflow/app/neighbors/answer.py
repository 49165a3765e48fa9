"""What neighbors change: each GPU alone compared with the same GPU beside others, by the passes that overlapped."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from ttt_mlflow import names
from ttt_mlflow.app.neighbors.cases import Case
from ttt_mlflow.app.neighbors.turns import ALONE, TOGETHER, One
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.comparison import answers
from ttt_mlflow.measurement.neighbors_cache import NeighborChange
from ttt_mlflow.measurement.paired import compare_pairs
from ttt_mlflow.measurement.slower_gpus import slower_gpus
from ttt_mlflow.record.passes import TimedPass, throughputs, timed_passes
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.report.comparison import CANNOT_TELL, ComparisonOptions, Pair, compare_sides
from ttt_mlflow.report.comparison_text import Report
from ttt_mlflow.report.gate import Gate, decide

RESOLUTION_PCT = 1.0
PASSES_LEAST = 2  # of a run, while all others were measured too
BUSY_SHARE = 0.9  # of the neighbors, below which they were not busy all the time
PairValues = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Answer:
    """report: both sides of all cases. changes: by case. slower: a sentence for each GPU that was slower, alone.

    notes: what limits the answer, one line each.
    """

    report: Report
    changes: Sequence[NeighborChange]
    slower: Sequence[str]
    notes: Sequence[str]

    @property
    def differs(self) -> bool:
        return any(one.answer in ("faster", "slower") for one in self.changes)


def answer_of(cases: Sequence[Case], runs: Sequence[One], places: Sequence[str]) -> Answer | None:
    """The answer of the complete runs; None if no case was measured both alone and together."""
    done = [one for one in runs if one.is_complete]
    sides = [[LocalRun(one.record) for one in done if one.side == side and one.record] for side in (ALONE, TOGETHER)]
    options = ComparisonOptions(RESOLUTION_PCT, include_invalid=True)
    try:
        compared = compare_sides(sides[0], sides[1], options)
    except BadInput:  # a side without runs, or nothing in common
        return None
    case_of = {one.record.journal_id: one.case for one in done if one.record}
    notes: list[str] = []
    pairs = []
    for pair in compared.pairs:
        name = case_of[pair.baseline[0].run.id]
        values = list(paired([one for one in done if one.case == name], notes))
        pairs.append(_with(pair, name, values))
    order = [case.name for case in cases]
    pairs = _answered(sorted(pairs, key=lambda pair: order.index(pair.title.partition(":")[0])))
    compared = replace(compared, pairs=tuple(pairs))
    texts = ("alone on each GPU in turn, the others idle", f"on all {len(places)} GPUs at once")
    report = Report(*texts, compared, decide(compared, Gate()))
    notes += [*_failed(runs), *_idle(done, len(places)), *_invalid(done)]
    return Answer(report, _changes(pairs), _slower(order, done), tuple(dict.fromkeys(notes)))


def paired(runs: Sequence[One], notes: list[str]) -> Iterator[PairValues]:
    """The tokens/s of each pass alone and together, for each GPU and round of one case.

    Together, only the passes count that lie in the time in which all were measured; ``notes`` gets what has none.
    """
    together: dict[int, dict[str, list[TimedPass]]] = {}
    for one in runs:
        if one.side == TOGETHER and one.record:
            together.setdefault(one.round_number, {})[one.place] = timed_passes(LocalRun(one.record))
    windows = {number: common_time(list(passes.values())) for number, passes in together.items()}
    for one in runs:
        if one.side != ALONE or one.record is None:
            continue
        passes = together.get(one.round_number, {}).get(one.place)
        if passes is None:
            continue
        began, ended = windows[one.round_number]
        inside = [each.rate for each in passes if each.began_ms >= began and each.ended_ms <= ended]
        if len(inside) < PASSES_LEAST:
            notes.append(
                f"{one.case}, round {one.round_number}: the runs on all GPUs did not overlap on GPU {one.place}"
            )
            continue
        yield throughputs(LocalRun(one.record)), inside


def common_time(runs: Sequence[Sequence[TimedPass]]) -> tuple[float, float]:
    """From the last begin to the first end of the measured passes of several runs, in ms since 1970."""
    return max(passes[0].began_ms for passes in runs), min(passes[-1].ended_ms for passes in runs)


def _with(pair: Pair, name: str, values: Sequence[PairValues]) -> Pair:
    """``pair`` compared by pairs of runs on one GPU. GPUs that differ from each other are on both sides alike."""
    title = f"{name}: {pair.title}"
    conditions = tuple(one for one in pair.conditions if one.differs)
    pair = replace(pair, title=title, conditions=conditions, intervals=(None, None))
    if not values:
        why = pair.why or "no GPU was measured both alone and together"
        return replace(pair, comparison=None, answer=CANNOT_TELL, why=why)
    return replace(pair, comparison=compare_pairs(values))


def _answered(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with their answers, corrected for the number of pairs."""
    compared = [pair.comparison for pair in pairs if pair.comparison]
    found = iter(answers(compared, RESOLUTION_PCT))
    done = []
    for pair in pairs:
        if pair.comparison:
            answer = next(found)
            wide = f"the confidence interval is wider than ±{RESOLUTION_PCT:g} %"
            why = (pair.comparison.missing or wide) if answer == CANNOT_TELL else ""
            pair = replace(pair, answer=answer, why=why)
        done.append(pair)
    return done


def _changes(pairs: Sequence[Pair]) -> list[NeighborChange]:
    return [
        NeighborChange(pair.title.partition(":")[0], pair.answer, one.change_pct, one.low_pct, one.high_pct)
        for pair in pairs
        if (one := pair.comparison)
    ]


def _slower(order: Sequence[str], done: Sequence[One]) -> list[str]:
    """The GPUs that were slower alone, by case."""
    said = []
    for name in order:
        medians: dict[str, list[float]] = {}
        for one in done:
            if one.case == name and one.side == ALONE and one.record:
                medians.setdefault(one.place.partition(" ")[0], []).append(median(throughputs(LocalRun(one.record))))
        said += [f"{one} ({name})" for one in slower_gpus(medians)]
    return said


def _failed(runs: Sequence[One]) -> Iterator[str]:
    for one in runs:
        if not one.is_complete:
            why = one.reason or (one.record.status["message"] if one.record else None) or "no reason recorded"
            yield f"{one.case}, {one.side} on GPU {one.place}: not measured: {why}"


def _idle(done: Sequence[One], count: int) -> Iterator[str]:
    """The runs beside which not all others were busy, as NVML tells."""
    for one in done:
        busy = _metrics(one).get(names.NEIGHBOR_GPUS_BUSY.name)
        if one.side == TOGETHER and busy is not None and busy < BUSY_SHARE * (count - 1):
            yield f"{one.case}: beside GPU {one.place}, {busy:.1f} of {count - 1} other GPUs were busy, in the mean"
        if one.side == ALONE and busy is not None and busy > 1 - BUSY_SHARE:
            yield f"{one.case}: GPU {one.place} was not alone: {busy:.1f} other GPUs were busy, in the mean"


def _invalid(done: Sequence[One]) -> Iterator[str]:
    counts: dict[tuple[str, str, str], int] = {}
    for one in done:
        tags: Mapping[str, str] = one.record.tags if one.record else {}
        if tags.get(names.TAG_VERDICT.name) == "invalid":
            key = (one.case, one.side, tags.get(names.TAG_REASONS.name, "no reason recorded"))
            counts[key] = counts.get(key, 0) + 1
    for (case, side, reasons), count in counts.items():
        yield f"{case}, {side}: runs with the verdict invalid, which count here: {count} ({reasons})"


def _metrics(one: One) -> Mapping[str, float]:
    return one.record.metrics if one.record else {}

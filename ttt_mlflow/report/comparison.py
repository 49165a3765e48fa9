"""Compares the runs of two sides: pairs of configurations, what else differs, and whether each became faster.

Only records are read. The verdict on each run was given when it was measured (``ttt.verdict``).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from ttt_mlflow import names
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.comparison import (
    Answer,
    Comparison,
    RunToRun,
    answers,
    compare,
    known_run_to_run,
    power_capped,
)
from ttt_mlflow.measurement.statistics import median_confidence_interval
from ttt_mlflow.names import Metric
from ttt_mlflow.record.recorded_run import RecordedRun
from ttt_mlflow.report.conditions import Condition, Facts, conditions_of
from ttt_mlflow.report.measured import Measured, measured_in

CANNOT_TELL: Answer = "cannot tell"
# shown beside the headline of each pair
BESIDE: tuple[Metric, ...] = (
    names.DECODE_STEP_MS_P50,
    names.DECODE_STEP_MS_P99,
    names.TIME_TO_FIRST_TOKEN_MS,
    names.PEAK_MEMORY_ALLOCATED_GB,
    names.JOULES_PER_TOKEN,
    names.ACCURACY_DIFFERING_TOKENS_PCT,
    names.ACCURACY_RATIO,
)


@dataclass(frozen=True)
class ComparisonOptions:
    """How runs are compared.

    resolution_pct: an interval that is wider than ± this says nothing. strict: a condition makes its pair *cannot
    tell*. include_invalid: invalid runs are compared like others. one_pair: all runs of a side are one configuration,
    and the two are compared although they differ.
    """

    resolution_pct: float = 1.0
    strict: bool = False
    include_invalid: bool = False
    one_pair: bool = False


@dataclass(frozen=True)
class Beside:
    """A number beside the headline: medians of the sides' runs. None: not measured."""

    metric: Metric
    baseline: float | None
    candidate: float | None

    @property
    def change_pct(self) -> float | None:
        """None also of numbers so far apart that no float holds it."""
        if not self.baseline or self.candidate is None:
            return None
        change = 100 * (self.candidate / self.baseline - 1)
        return change if math.isfinite(change) else None

    @property
    def word(self) -> str:
        """better, worse, or nothing for a change that is not one."""
        change = self.change_pct
        if not change or self.metric.better is None:
            return ""
        return "better" if (change > 0) == (self.metric.better == "higher") else "worse"


@dataclass(frozen=True)
class Pair:
    """One configuration on both sides.

    baseline, candidate: what was compared. left_out: one line for each run that was not. comparison: None if a side has
    nothing to compare. why: the reason of *cannot tell*, and what to do. counts: False if neither side fits into
    memory; such a pair is only listed. condition_decided: whether ``strict`` made it *cannot tell*.
    """

    title: str
    baseline: tuple[Measured, ...]
    candidate: tuple[Measured, ...]
    left_out: tuple[str, ...]
    comparison: Comparison | None
    answer: Answer
    why: str
    conditions: tuple[Condition, ...]
    beside: tuple[Beside, ...]
    unit: str
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None)
    counts: bool = True
    condition_decided: bool = False

    @property
    def slowdown_pct(self) -> float | None:
        """By how much the candidate is slower, in percent of the baseline; negative if it is faster."""
        if self.comparison is None:
            return None
        return -self.comparison.change_pct if self.comparison.quantity == "rate" else self.comparison.change_pct

    @property
    def speed_pct(self) -> float | None:
        """The change in speed in percent: of the rate, or of the inverse of the time."""
        if self.comparison is None:
            return None
        change = self.comparison.change_pct
        return change if self.comparison.quantity == "rate" else 100 * (1 / (1 + change / 100) - 1)


@dataclass(frozen=True)
class Compared:
    """The answer for all pairs. alone_baseline, alone_candidate: configurations without a partner."""

    pairs: tuple[Pair, ...]
    alone_baseline: tuple[str, ...]
    alone_candidate: tuple[str, ...]
    options: ComparisonOptions

    @property
    def common_conditions(self) -> tuple[Condition, ...]:
        """The conditions that all pairs share."""
        first, *others = [pair.conditions for pair in self.pairs] or [()]
        return tuple(one for one in first if all(one in conditions for conditions in others))

    @property
    def geometric_mean_pct(self) -> float | None:
        """Geometric mean of the changes in speed, in percent; positive is faster. None for fewer than two pairs."""
        changes = [pair.speed_pct for pair in self.pairs if pair.counts]
        logs = [math.log1p(change / 100) for change in changes if change is not None]
        return 100 * math.expm1(sum(logs) / len(logs)) if len(logs) > 1 else None

    @property
    def answer(self) -> str:
        """One answer for all: the most telling of the pairs' answers, or mixed if some are faster and some slower."""
        found = {pair.answer for pair in self.pairs if pair.counts}
        if {"faster", "slower"} <= found:
            return "mixed"
        for one in ("slower", "faster", CANNOT_TELL):
            if one in found:
                return one
        return "no significant difference"


def compare_sides(
    baseline: Iterable[RecordedRun], candidate: Iterable[RecordedRun], options: ComparisonOptions
) -> Compared:
    """Compare all runs of two sides. Several runs of one configuration on a side are its repetitions.

    Raises BadInput for an empty side, and if the sides have nothing in common.
    """
    sides = measured_in_both(baseline, candidate)
    groups = [_by_key(side) for side in sides]
    if options.one_pair or all(len(side) == 1 for side in sides):
        groups = [{"": side} for side in sides]
        _check_same_quantity(sides)
    keys = [key for key in groups[0] if key in groups[1]]
    if not keys:
        raise BadInput(
            "no configuration is on both sides; "
            + "; ".join(
                f"the {name} has {_listed(one[0].title for one in group.values())}"
                for name, group in zip(("baseline", "candidate"), groups, strict=True)
            )
        )
    facts = Facts()
    pairs = [_pair(groups[0][key], groups[1][key], options, facts) for key in keys]
    alone = [tuple(group[key][0].title for key in group if key not in keys) for group in groups]
    return Compared(tuple(_answered(pairs, options)), alone[0], alone[1], options)


def measured_in_both(
    baseline: Iterable[RecordedRun], candidate: Iterable[RecordedRun]
) -> tuple[list[Measured], list[Measured]]:
    """What both sides measured. The keys of both follow one rule. Raises BadInput for an empty side."""
    runs = list(baseline), list(candidate)
    for name, side in zip(("baseline", "candidate"), runs, strict=True):
        if not side:
            raise BadInput(f"the {name} has no runs to compare; name one")
    every = measured_in({run.id: run for side in runs for run in side}.values())
    found = [[one for run in side for one in every if one.run.id == run.id] for side in runs]
    return found[0], found[1]


def _by_key(side: Sequence[Measured]) -> dict[str, list[Measured]]:
    groups: dict[str, list[Measured]] = {}
    for one in side:
        groups.setdefault(one.key, []).append(one)
    return groups


def _check_same_quantity(sides: tuple[list[Measured], list[Measured]]) -> None:
    kinds = [sorted({one.run.kind for one in side}) for side in sides]
    if kinds[0] != kinds[1]:
        raise BadInput(
            f"the baseline is a run of {', '.join(kinds[0])} and the candidate of {', '.join(kinds[1])}: "
            "compare two runs of one kind"
        )


def _listed(titles: Iterable[str], most: int = 5) -> str:
    found = list(dict.fromkeys(titles))
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def _pair(baseline: list[Measured], candidate: list[Measured], options: ComparisonOptions, facts: Facts) -> Pair:
    """The pair, without its answer where statistics over all pairs decide it."""
    sides, problems, left_out = [], [], []
    for name, side in (("baseline", baseline), ("candidate", candidate)):
        usable = [one for one in side if not (reason := _unusable(one, options))]
        left_out += [f"{name} {one.run.id}: {reason}" for one in side if (reason := _unusable(one, options))]
        if not usable:
            problems.append(f"the {name} {_unusable(side[-1], options)}")
        sides.append(usable)
    used = [sides[0] or baseline, sides[1] or candidate]
    conditions = conditions_of(used[0], used[1], facts)
    title = candidate[-1].title
    # the name of an older run may follow another rule, though it measured the same
    if baseline[-1].key != candidate[-1].key and title != baseline[-1].title:
        title = f"{baseline[-1].title} → {title}"
    beside = tuple(_beside(metric, used[0], used[1]) for metric in BESIDE)
    beside = tuple(one for one in beside if one.baseline is not None or one.candidate is not None)
    if problems:
        neither_fits = all(one.status == "oom" for one in (*baseline, *candidate))
        return Pair(
            title, tuple(baseline), tuple(candidate), tuple(left_out), None, CANNOT_TELL, "; ".join(problems),
            conditions, beside, baseline[-1].unit, counts=not neither_fits,
        )  # fmt: skip
    values = [[one.read() for one in side] for side in used]
    comparison = compare(
        values[0],
        values[1],
        quantity=baseline[-1].quantity,
        run_to_run=_known_run_to_run(used[0] + used[1], facts),
        resolution_pct=options.resolution_pct,
    )
    return Pair(
        title, tuple(used[0]), tuple(used[1]), tuple(left_out), comparison, CANNOT_TELL, "", conditions, beside,
        baseline[-1].unit, (_interval(values[0]), _interval(values[1])),
    )  # fmt: skip


def _unusable(one: Measured, options: ComparisonOptions) -> str:
    """Why this run cannot be compared; empty if it can."""
    if one.status == "oom":
        return "did not fit into memory"
    if one.status not in ("ok", "killed"):
        return f"failed (status {one.status})"
    if one.status == "killed":
        return "was stopped before its end"
    if one.verdict == "invalid" and not options.include_invalid:
        return f"is invalid ({one.reasons or 'no reason recorded'}); measure it again, or use --include-invalid"
    return ""


def _known_run_to_run(used: Sequence[Measured], facts: Facts) -> RunToRun | None:
    """The run-to-run variance that was measured for this kind of GPU, if all runs are of one kind."""
    kinds = {facts.of(one.run).get("gpu_name") for one in used}
    if len(kinds) != 1 or None in kinds:
        return None
    capped = any(power_capped(one.run.metrics) for one in used)
    return known_run_to_run(str(kinds.pop()), capped)


def _interval(values: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """95 % confidence interval of a side's median: of the passes of one run, or of the medians of several."""
    return median_confidence_interval(values[0] if len(values) == 1 else [float(np.median(one)) for one in values])


def _beside(metric: Metric, baseline: Sequence[Measured], candidate: Sequence[Measured]) -> Beside:
    sides = ([one.run.metrics.get(metric.name) for one in side] for side in (baseline, candidate))
    left, right = ([value for value in side if value is not None] for side in sides)
    return Beside(metric, median(left) if left else None, median(right) if right else None)


def _answered(pairs: Sequence[Pair], options: ComparisonOptions) -> list[Pair]:
    """The pairs with their answers, corrected for the number of pairs."""
    compared = [pair for pair in pairs if pair.comparison is not None]
    found = iter(answers([pair.comparison for pair in compared if pair.comparison], options.resolution_pct))
    done = []
    for pair in pairs:
        if pair.comparison is None:
            done.append(pair)
            continue
        answer = next(found)
        if options.strict and pair.conditions:
            done.append(replace(pair, answer=CANNOT_TELL, why=_strict(pair.conditions), condition_decided=True))
        elif answer == CANNOT_TELL:
            done.append(replace(pair, answer=answer, why=_why_not(pair.comparison, options)))
        else:
            done.append(replace(pair, answer=answer))
    return done


def _strict(conditions: Sequence[Condition]) -> str:
    first, *others = conditions
    named = f"{first} differ" if first.differs else f"{first}"
    return f"strict: {named}" + (f"; {len(others)} more" if others else "")


def _why_not(comparison: Comparison, options: ComparisonOptions) -> str:
    if comparison.missing:
        return comparison.missing
    return f"the confidence interval is wider than ±{options.resolution_pct:g} %"

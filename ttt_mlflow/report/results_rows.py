"""Which runs are one row of a report: those that differ in the batch, and in nothing that was asked for otherwise.

Some facts change with the batch by themselves: how a step runs and which attention is fastest are chosen for it, and a
pass has fewer steps of a large batch. They tell rows apart only where a row would have a batch twice.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ttt_mlflow import names
from ttt_mlflow.report.results import ATTN_IMPL, DECODE_PATH, GENLEN, Placed

CHOSEN = (DECODE_PATH, ATTN_IMPL, "use_compile")  # for each batch, unless they are asked for
VARYING = (*CHOSEN, GENLEN)
OR = " or "  # between the values of a fact that a row has
Row = list[Placed]


@dataclass(frozen=True)
class Group:
    """Runs of the same facts. places: where in a row they stand."""

    members: Row
    places: frozenset[Hashable]

    @property
    def facts(self) -> Mapping[str, str]:
        """Of the one of which most is known, which comes first."""
        return self.members[0].facts


def rows_of(runs: Sequence[Placed], asked: Sequence[Placed]) -> list[Row]:
    """The rows of ``runs`` and of the cells of sweeps, in the order in which those were asked for.

    A run that ended early knows less of itself, and so does a cell without a run. It belongs to the row that it can
    belong to.
    """
    exact: dict[Hashable, Row] = {}
    others = []
    for one in sorted(runs, key=lambda run: len(run.facts), reverse=True):
        key = _key_among(one, exact)
        if key is not None or not any(one.could_be(members[0]) for members in exact.values()):
            exact.setdefault(key or one.key, []).append(one)
        else:
            others.append(one)
    for one in asked:
        key = _key_among(one, exact)
        others.append(one) if key is None else exact[key].append(one)
    level = _level(runs)
    rows = _joined_by_batch(exact, level)
    rest: dict[Hashable, Row] = {}
    for one in others:
        if (row := next((row for row in rows if _has_room(row, one, level)), None)) is not None:
            row.append(one)
        else:
            rest.setdefault(_key_among(one, rest) or one.key, []).append(one)
    rows += _joined_by_batch(rest, level)
    number = {id(one): index for index, one in enumerate(asked)}
    return sorted(rows, key=lambda row: (min(number.get(id(one), len(asked)) for one in row), row[0].reading_order))


def _joined_by_batch(groups: Mapping[Hashable, Row], level: Collection[tuple[int, str]]) -> list[Row]:
    return joined([Group(row, frozenset(one.batch for one in row)) for row in groups.values()], level)


def _level(runs: Sequence[Placed]) -> set[tuple[int, str]]:
    """Sets and models whose decode step is known to cost the same at any context."""
    tags: dict[tuple[int, str], set[str | None]] = {}
    for one in runs:
        if one.cell.row:
            tags.setdefault((one.set_index, one.model), set()).add(one.cell.row.tags.get(names.TAG_COST_GROWS.name))
    return {model for model, found in tags.items() if found == {"false"}}


def _loose(one: Placed, level: Collection[tuple[int, str]]) -> tuple[str, ...]:
    """Facts that may change with the batch."""
    return VARYING if (one.set_index, one.model) in level else CHOSEN


def joined(groups: Sequence[Group], level: Collection[tuple[int, str]] = ()) -> list[Row]:
    """Groups as rows: what differs in facts that may change with the batch is one, unless a place is there twice.

    Then as few of these facts as can be tell the rows apart. level: sets and models whose step always costs the same.
    """
    alike: dict[Hashable, list[Group]] = {}
    for group in groups:
        first = group.members[0]
        alike.setdefault(_without(first, _loose(first, level)).key, []).append(group)
    rows = []
    for found in alike.values():
        loose = _loose(found[0].members[0], level)
        every = (apart for count in range(len(loose) + 1) for apart in combinations(loose, count))
        parts = next(parts for apart in every if _are_distinct(parts := _parts(found, apart), len(found)))
        rows += [[one for group in part for one in group.members] for part in parts]
    return rows


def _parts(groups: Sequence[Group], apart: Sequence[str]) -> list[list[Group]]:
    parts: dict[Hashable, list[Group]] = {}
    for group in groups:
        parts.setdefault(tuple(group.facts.get(name) for name in apart), []).append(group)
    return list(parts.values())


def _are_distinct(parts: Sequence[Sequence[Group]], most: int) -> bool:
    """Whether no part has a place twice. most: as many parts as that are one a group."""
    return len(parts) == most or all(
        sum(len(group.places) for group in part) == len(frozenset().union(*(group.places for group in part)))
        for part in parts
    )


def _without(one: Placed, facts: Sequence[str]) -> Placed:
    return replace(one, facts={name: text for name, text in one.facts.items() if name not in facts})


def _key_among(one: Placed, groups: Mapping[Hashable, Sequence[Placed]]) -> Hashable | None:
    """The group of the same facts, or that to which a run or cell with fewer facts can belong; None if there is none.

    Of several, which differ in what was chosen for their batches, that which has its batch.
    """
    if one.key in groups:
        return one.key
    fits = [key for key, members in groups.items() if one.could_be(members[0])]
    if len(fits) == 1:
        return fits[0]
    return next((key for key in fits if any(one.batch == other.batch for other in groups[key])), None)


def _has_room(row: Row, one: Placed, level: Collection[tuple[int, str]]) -> bool:
    """Whether a cell without a run can stand in a row whose facts change with the batch."""
    loose = _loose(row[0], level)
    return _without(one, loose).could_be(_without(row[0], loose)) and one.batch not in {other.batch for other in row}


def first_of(row: Row) -> Placed:
    """The one of which most is known, with the facts of all."""
    first = max(row, key=lambda one: len(one.facts))
    facts = dict(first.facts)
    for name in VARYING:
        if len(values := {one.facts[name] for one in row if name in one.facts}) > 1:
            facts[name] = _range(values) if name == GENLEN else OR.join(sorted(values))
    return replace(first, facts=facts)


def _range(values: set[str]) -> str:
    numbers = sorted(int(text) for text in values if text.isdecimal())
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) == len(values) else OR.join(sorted(values))


def own_facts(row: Row, first: Placed) -> dict[int, dict[str, str]]:
    """The facts of each batch that are not those of the whole row."""
    own: dict[int, dict[str, str]] = {}
    for one in row:
        for name in VARYING:
            if name in one.facts and one.facts[name] != first.facts[name]:
                own.setdefault(one.batch, {})[name] = one.facts[name]
    return own

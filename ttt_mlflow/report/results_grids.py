"""Puts runs, and the cells of sweeps that have no run, into the grids of a report."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import PurePosixPath
from typing import Any

from ttt_mlflow import names
from ttt_mlflow.config import as_text
from ttt_mlflow.config.numbers import LARGEST
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.derived import whole_number
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.record.sweep_file import DOES_NOT_FIT, SweepCell, SweepFile
from ttt_mlflow.report.columns import THROUGHPUT, verdict_text
from ttt_mlflow.report.results import (
    ATTN_IMPL,
    DECODE_PATH,
    FACTS,
    GENLEN,
    GPU,
    MEASURED,
    Cell,
    Grid,
    Placed,
    Results,
    Run,
    Series,
    State,
)
from ttt_mlflow.report.results_rows import CHOSEN, OR, VARYING, first_of, own_facts, rows_of

# of several runs of one configuration, the newest of those with the highest number is shown
RANK: dict[State, int] = {"valid": 3, "unjudged": 2, "invalid": 1, "oom": 1}
# which run that is, by its state
NEWEST: dict[State, str] = {
    "valid": "the newest valid run is shown",
    "unjudged": "the newest run that was not judged is shown, because none is valid",
    "invalid": "the newest invalid run is shown, because none is valid",
}
NO_NUMBER = "a run without a number is shown, because none has one"
# ttt.status, and MLflow's own status of a run that has none yet
OF_STATUS: dict[str, State] = {"oom": "oom", "killed": "killed", "running": "running", "scheduled": "running"}
FINISHED = ("ok", "finished")


def _weights(checkpoint: str) -> str:
    return PurePosixPath(checkpoint).name or checkpoint


RANDOM_WEIGHTS = "random weights"


# how a person reads a fact; the others are read as they are
READ: dict[str, Callable[[str], str]] = {
    names.PROMPTLEN.name: lambda text: f"prompt {text}",
    GENLEN: lambda text: f"{text} decode step{'' if text == '1' else 's'}",
    DECODE_PATH: lambda text: f"decode path {text}",
    ATTN_IMPL: lambda text: f"attention {text}",
    "use_compile": lambda text: OR.join("compiled" if one == "true" else "not compiled" for one in text.split(OR)),
    "cuda_graph": lambda text: "CUDA graph" if text == "true" else "no CUDA graph",
    "checkpoint": _weights,
}
UNKNOWN = ("", "auto")  # a parameter that was not given and not chosen


def _read(fact: str, text: str) -> str:
    return READ.get(fact, str)(text)


@dataclass(frozen=True)
class RunSet:
    """Runs that belong together, such as those of one sweep. Several sets are shown on top of each other."""

    label: str
    rows: Sequence[RunRow]
    sweeps: Sequence[SweepFile] = ()


def _state_of(row: RunRow) -> State:
    if row.status not in FINISHED:
        return OF_STATUS.get(row.status, "failed")
    if row.metrics.get(THROUGHPUT[row.kind].name) is None:
        return "failed"
    found: dict[str | None, State] = {"valid": "valid", "invalid": "invalid"}
    return found.get(row.tags.get(names.TAG_VERDICT.name), "unjudged")


def _reason_of(row: RunRow, state: State) -> str:
    """Why a run is not valid, in one line; empty if it is."""
    if state == "valid":
        return ""
    message = row.tags.get(names.TAG_MESSAGE.name, "")
    if state in MEASURED:
        verdict = verdict_text(row).partition(": ")[2]  # without the word itself
        missing = row.tags.get(names.TAG_MISSING.name, "").replace(",", ", ")
        return "; ".join(filter(None, [verdict, missing and f"not checked: {missing}"])) or "no verdict"
    if state == "failed" and row.status in FINISHED:
        return "no throughput was measured"
    return message


def results_of(
    sets: Sequence[RunSet],
    title: str,
    *,
    links: Mapping[str, str] | None = None,
    run_ids: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    against: str | None = None,
) -> Results:
    """The results of ``sets``. links, run_ids: see :class:`Results`. notes: what else a reader must know.

    against: the label of the row to which speed-ups are relative, or a part of it. By default that is the first row; of
    several sets it is the same configuration of the first. Raises BadInput if it fits no row, or several.
    """
    placed: list[Placed] = []
    left_out: Counter[str] = Counter()
    for index, one in enumerate(sets):
        for row in one.rows:
            where = _place_of_run(row, index)
            if where is None:
                left_out[row.kind] += 1
            else:
                placed.append(where)
    cells = [
        _place_of_cell(cell, index) for index, one in enumerate(sets) for part in one.sweeps for cell in part.cells
    ]
    asked = [one for one in cells if one is not None]
    labels = tuple(one.label for one in sets)
    kinds = [kind for kind in THROUGHPUT if any(one.kind == kind for one in (*placed, *asked))]
    grids = tuple(
        _grid(kind, [one for one in placed if one.kind == kind], [one for one in asked if one.kind == kind], labels)
        for kind in kinds
    )
    looks = with_looks_apart([grid.series for grid in grids])
    grids = tuple(replace(grid, series=series) for grid, series in zip(grids, looks, strict=True))
    grids = _with_baselines(grids, against, several=len(sets) > 1)
    runs = [Run(one, one.cell.row, one.cell.row.run.name) for one in placed if one.cell.row]
    runs.sort(key=lambda run: run.row.started_at, reverse=True)
    told = [*notes, *_left_out(left_out), *_conditions([run.row for run in runs]), *_repetitions(grids)]
    return Results(title, grids, labels, tuple(runs), tuple(told), links or {}, run_ids or {})


def _with_baselines(grids: Sequence[Grid], against: str | None, several: bool) -> tuple[Grid, ...]:
    if against is None:
        first = {grid.kind: None if several else next(iter(grid.series), None) for grid in grids}
        return tuple(replace(grid, against=first[grid.kind]) for grid in grids)
    fits = {grid.kind: [one for one in grid.series if against.lower() in one.label.lower()] for grid in grids}
    exact = {kind: [one for one in found if one.label == against] or found for kind, found in fits.items()}
    # which have commas themselves
    labels = "; ".join(dict.fromkeys(one.label for grid in grids for one in grid.series))
    if not any(exact.values()):
        raise BadInput(f"against={against}: no such row; the rows are {labels or 'none'}")
    for found in exact.values():
        if len(found) > 1:
            told = "; ".join(one.label for one in found)
            raise BadInput(f"against={against}: fits several rows; give the whole label of one: {told}")
    return tuple(replace(grid, against=next(iter(exact[grid.kind]), grid.series[0])) for grid in grids)


def _place_of_run(row: RunRow, set_index: int) -> Placed | None:
    params = row.params
    batch = params.get(names.BATCH.name, "")
    if row.kind not in THROUGHPUT or not params.get("model_name") or not _is_batch(batch):
        return None
    # a run without a GPU's name is either one on the CPU, or one that ended before it asked for the name
    gpu = row.tags.get(names.TAG_GPU_NAME.name) or ("CPU" if params.get("device") == "cpu" else "")
    state = _state_of(row)
    return _placed(set_index, row.kind, params, gpu, Cell(state, _reason_of(row, state), row))


def _is_batch(text: str) -> bool:
    """Whether it can be one; a run that was refused keeps what was asked for, such as 0."""
    return 1 <= (whole_number(text) or 0) <= LARGEST


def _place_of_cell(cell: SweepCell, set_index: int) -> Placed | None:
    params = {name: as_text(value) for name, value in cell.config.items()}
    kind, batch = params.get("mode", "decode"), params.get(names.BATCH.name, "")
    if kind not in THROUGHPUT or not params.get("model_name") or not _is_batch(batch):
        return None
    # a cell that was measured is shown by its run; without the run nothing is known of its numbers
    state: State = "missing" if cell.state == "done" else cell.state
    gpu = cell.gpu or ("CPU" if params.get("device") == "cpu" else "")
    return _placed(set_index, kind, params, gpu, Cell(state, cell.reason or ""))


def _placed(set_index: int, kind: str, params: Mapping[str, str], gpu: str, cell: Cell) -> Placed:
    known = {GPU: gpu, **{name: params.get(name, "") for name in FACTS if name != GPU}}
    if kind == "prefill":  # parameters of every run, but a prefill generates nothing
        known = {name: text for name, text in known.items() if name not in (GENLEN, DECODE_PATH)}
    facts = {name: text for name, text in known.items() if text not in UNKNOWN}
    facts.setdefault("checkpoint", RANDOM_WEIGHTS)
    inner_net = params.get("inner_net", "")
    return Placed(
        set_index,
        kind,
        params["model_name"],
        "" if inner_net in UNKNOWN else inner_net,
        int(params[names.BATCH.name]),
        facts,
        cell,
    )


def _grid(kind: str, runs: Sequence[Placed], asked: Sequence[Placed], sets: Sequence[str]) -> Grid:
    rows = rows_of(runs, asked)
    firsts = [first_of(row) for row in rows]
    series = [
        Series(
            first.model,
            first.inner_net,
            *label,
            first.facts,
            first.set_index,
            look,
            _cells(row),
            own_facts(row, first),
        )
        for row, first, label, look in zip(rows, firsts, labels_of(firsts, sets), looks_of(firsts), strict=True)
    ]
    # the same configuration of each set stands together
    series.sort(key=lambda one: (one.look, one.set_index))
    batches = sorted({batch for one in series for batch in one.cells})
    shared = [name for name in FACTS if len({one.facts.get(name) for one in firsts}) == 1 and name in firsts[0].facts]
    return Grid(kind, tuple(series), tuple(batches), tuple(_read(name, firsts[0].facts[name]) for name in shared))


def _cells(placed: Sequence[Placed]) -> dict[int, Cell]:
    by_batch: dict[int, list[Cell]] = {}
    for one in placed:
        by_batch.setdefault(one.batch, []).append(one.cell)
    return {batch: _shown(cells) for batch, cells in sorted(by_batch.items())}


def _shown(cells: Sequence[Cell]) -> Cell:
    runs = [cell for cell in cells if cell.row]
    if not runs:
        return max(cells, key=lambda cell: cell.state in DOES_NOT_FIT)
    best = max(runs, key=lambda cell: (RANK.get(cell.state, 0), cell.row.started_at if cell.row else None))
    return Cell(best.state, best.reason, best.row, len(runs) - 1)


def labels_of(placed: Sequence[Placed], sets: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """For each series what tells it apart, and in what else it differs from series of other models."""
    like: dict[tuple[str, str], list[Placed]] = {}
    for one in placed:
        like.setdefault((one.model, one.inner_net), []).append(one)
    differs = _differing(placed)
    apart = {key: _telling_apart(members) for key, members in like.items()}
    models = {one.model for one in placed}
    ambiguous = {model for model in models if sum(_short(model) == _short(other) for other in models) > 1}
    labels = []
    for one in placed:
        texts = {name: _read(name, text) for name, text in one.facts.items()}
        own = apart[one.model, one.inner_net]
        model = one.model if one.model in ambiguous else _short(one.model)
        name = " ".join(filter(None, [model, one.inner_net]))
        label = ", ".join([name, *(texts[name] for name in FACTS if name in own & texts.keys())])
        label = f"{label} [{sets[one.set_index]}]" if len(sets) > 1 else label
        labels.append((label, tuple(texts[name] for name in FACTS if name in (differs - own) & texts.keys())))
    return labels


def _differing(placed: Sequence[Placed]) -> set[str]:
    return {name for name in FACTS if len({one.facts.get(name) for one in placed}) > 1}


def _telling_apart(placed: Sequence[Placed]) -> set[str]:
    """Facts that differ among series of one model. Of those that are chosen for a batch, only as many as are needed."""
    differs = _differing(placed)
    always, chosen = differs - {*CHOSEN}, [name for name in CHOSEN if name in differs]
    for more in (more for count in range(len(chosen)) for more in combinations(chosen, count)):
        told = {(one.set_index, *(one.facts.get(name) for name in (*always, *more))) for one in placed}
        if len(told) == len(placed):
            return always | {*more}
    return differs


def _short(model: str) -> str:
    """The model without its owner, as in the names of runs."""
    return model.rpartition("/")[2]


def looks_of(firsts: Sequence[Placed]) -> list[int]:
    """A number for each series; the series of one configuration have the same in each set.

    What may change with the batch is left out, unless series of a set differ in that alone.
    """
    gpus = {(one.set_index, one.facts.get(GPU)) for one in firsts}
    one_gpu_a_set = len(gpus) == len({index for index, _ in gpus})

    def configuration(one: Placed, without: Collection[str]) -> Any:
        left_out = {*without, GPU} if one_gpu_a_set else {*without}
        facts = sorted((name, text) for name, text in one.facts.items() if name not in left_out)
        return one.model, one.inner_net, tuple(facts)

    plain = [configuration(one, VARYING) for one in firsts]
    count = Counter((one.set_index, of_all) for one, of_all in zip(firsts, plain, strict=True))
    several = {of_all for (_, of_all), number in count.items() if number > 1}
    numbers: dict[Any, int] = {}
    keys = [configuration(one, ()) if of_all in several else of_all for one, of_all in zip(firsts, plain, strict=True)]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def with_looks_apart(kinds: Sequence[Sequence[Series]]) -> list[tuple[Series, ...]]:
    """The series of several kinds of run, which one picture shows with one legend: a look stands for one label."""
    taken: dict[str, int] = {}
    found = []
    for series in kinds:
        labels: dict[int, list[str]] = {}
        for one in series:
            labels.setdefault(one.look, []).append(one.label)
        numbers: dict[int, int] = {}
        for look, own in labels.items():
            known = [taken[label] for label in own if label in taken and taken[label] not in numbers.values()]
            numbers[look] = next(iter(known), max(taken.values(), default=-1) + 1)
            taken |= dict.fromkeys(own, numbers[look])
        found.append(tuple(replace(one, look=numbers[one.look]) for one in series))
    return found


def _left_out(kinds: Counter[str]) -> list[str]:
    if not kinds:
        return []
    told = ", ".join(f"{count:,} of kind {kind}" for kind, count in sorted(kinds.items()))
    return [f"Left out, because they have no model with a throughput at a batch: {told}."]


def _conditions(rows: Sequence[RunRow]) -> list[str]:
    """In what the runs differ, though a row of the table does not say so."""
    lines = []
    for tag, what in (
        (names.TAG_GIT_COMMIT, "commits"),
        (names.TAG_DRIVER, "drivers"),
        (names.TAG_TORCH, "versions of torch"),
    ):
        found = Counter(row.tags[tag.name] for row in rows if tag.name in row.tags)
        if len(found) > 1:
            told = [f"{value[:12]} ({count:,})" for value, count in found.most_common(5)]
            lines.append(f"The runs are of {len(found)} {what}: {', '.join(told)}{', …' if len(found) > 5 else ''}.")
    return lines


def _repetitions(grids: Sequence[Grid]) -> list[str]:
    """How many were measured several times, and which run of each is shown."""
    several = [cell for grid in grids for _, _, cell in grid.cells() if cell.others]
    several.sort(key=lambda cell: RANK.get(cell.state, 0), reverse=True)
    shown = Counter(NEWEST.get(cell.state, NO_NUMBER) for cell in several)
    told = [f"of {'each' if len(shown) == 1 else f'{count:,}'} {which}" for which, count in shown.items()]
    return [f"Measured several times: {len(several):,}; {'; '.join(told)}."] if several else []

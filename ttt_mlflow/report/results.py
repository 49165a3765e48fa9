"""The results of many runs as grids: a row for each model and inner net, a column for each batch.

Tables, charts and the page are views of these grids.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ttt_mlflow import names
from ttt_mlflow.names import Metric
from ttt_mlflow.record.run_row import RunRow

# what became of a configuration; the words are those of ttt.verdict and of a sweep's cells
State = Literal[
    "valid", "unjudged", "invalid", "oom", "predicted_oom", "failed", "killed", "skipped", "running", "missing"
]
MEASURED: tuple[State, ...] = ("valid", "unjudged", "invalid")
GPU, GENLEN, DECODE_PATH, ATTN_IMPL = "gpu", names.GENLEN.name, "decode_path", "attn_impl"
# what tells runs of one model and inner net apart, besides the batch: parameters, and the name of the GPU
FACTS = (
    *(GPU, "dtype", names.PROMPTLEN.name, GENLEN, DECODE_PATH, ATTN_IMPL, "use_compile", "cuda_graph", "checkpoint"),
)


@dataclass(frozen=True)
class Cell:
    """What became of one configuration. reason: why it is not valid; empty if it is. others: repetitions not shown."""

    state: State
    reason: str = ""
    row: RunRow | None = None
    others: int = 0

    @property
    def is_measured(self) -> bool:
        return self.state in MEASURED

    def value(self, metric: Metric) -> float | None:
        """The metric's value; None for what was not measured."""
        return self.row.metrics.get(metric.name) if self.row and self.is_measured else None


@dataclass(frozen=True)
class Series:
    """One row of a table and one line of a chart.

    label: tells it from all others. notes: facts in which it differs from others, though its model tells them apart.
    look: number of its color and marker, the same in each set. cells: by batch; one that nobody asked for is absent.
    own: facts that not all cells share, by batch.
    """

    model: str
    inner_net: str
    label: str
    notes: tuple[str, ...]
    facts: Mapping[str, str]
    set_index: int
    look: int
    cells: Mapping[int, Cell]
    own: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    def facts_at(self, batch: int) -> Mapping[str, str]:
        return {**self.facts, **self.own.get(batch, {})}


@dataclass(frozen=True)
class Grid:
    """All series of one kind of run. shared: facts that are the same for all of them. batches: the columns.

    against: the series to which speed-ups are relative; None: to the same configuration of the first set.
    """

    kind: str
    series: tuple[Series, ...]
    batches: tuple[int, ...]
    shared: tuple[str, ...]
    against: Series | None = None

    def baseline_of(self, series: Series) -> Series | None:
        """To what the speed-ups of ``series`` are relative; None for a configuration that the first set lacks."""
        if self.against is not None:
            return self.against
        return next((one for one in self.series if (one.look, one.set_index) == (series.look, 0)), None)

    def cells(self) -> Iterable[tuple[Series, int, Cell]]:
        for series in self.series:
            for batch in self.batches:
                if batch in series.cells:
                    yield series, batch, series.cells[batch]


@dataclass(frozen=True)
class Placed:
    """A run, or a cell of a sweep without one, and where it belongs. A fact that is not known is absent from facts."""

    set_index: int
    kind: str
    model: str
    inner_net: str
    batch: int
    facts: Mapping[str, str]
    cell: Cell

    @property
    def key(self) -> tuple[object, ...]:
        return self.set_index, self.model, self.inner_net, tuple(sorted(self.facts.items()))

    @property
    def reading_order(self) -> tuple[object, ...]:
        """By model, inner net, and what tells runs of these apart; numbers by their size."""
        facts = (self.facts.get(name, "") for name in FACTS)
        in_size = [(0, int(text), "") if text.isdecimal() else (1, 0, text) for text in facts]
        return self.model, self.inner_net, in_size, self.set_index

    def could_be(self, other: "Placed") -> bool:
        """Whether a sweep's cell can belong to the series of ``other``: all that is known of it is the same."""
        same = (self.set_index, self.model) == (other.set_index, other.model)
        same = same and self.inner_net in ("", other.inner_net)
        return same and all(other.facts.get(name, value) == value for name, value in self.facts.items())


@dataclass(frozen=True)
class Run:
    """One run that takes part, whether the tables show it or a repetition of it. name: the run's, read once."""

    place: Placed
    row: RunRow
    name: str

    @property
    def cell(self) -> Cell:
        return self.place.cell

    @property
    def state(self) -> State:
        return self.place.cell.state


@dataclass(frozen=True)
class Results:
    """What a report shows. sets: labels. runs: all that take part, the newest first.

    notes: what a reader must know, a line each. links: where a person sees a run, by its id. run_ids: the ids that
    records have as runs of MLflow, by their own.
    """

    title: str
    grids: tuple[Grid, ...]
    sets: tuple[str, ...]
    runs: tuple[Run, ...]
    notes: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    run_ids: Mapping[str, str] = field(default_factory=dict)

    def id_of(self, row: RunRow) -> str:
        """The id by which a person finds the run: that in MLflow, or of a record that was not published its own."""
        return self.run_ids.get(row.id, row.id)

    @cached_property
    def run_names(self) -> Mapping[str, str]:
        """The names of the runs, by id."""
        return {run.row.id: run.name for run in self.runs}

    @cached_property
    def shown(self) -> frozenset[str]:
        """The ids of the runs that the tables and charts show."""
        return frozenset(cell.row.id for grid in self.grids for _, _, cell in grid.cells() if cell.row)

"""The rows of a table whose runs are in a store: the server filters, sorts and limits wherever it can.

It does not have what the parameters of some runs determine: of those of version 0.1, of those that were refused, and of
those that have just begun. They are few, they lack the tag ``ttt.method``, and are asked for on their own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.record.run_row import KINDS, RunRow, store_row
from ttt_mlflow.report.columns import METRICS, THROUGHPUT, Column

if TYPE_CHECKING:
    from ttt_mlflow.tracking.filters import RunFilter
    from ttt_mlflow.tracking.query import Store

DATE_ORDER = ("attributes.start_time DESC",)
# metrics by which a server cannot sort the runs without the tag
NOT_STORED = {metric.name for metric in (names.BATCH, names.PROMPTLEN, names.GENLEN)}
THROUGHPUT_COLUMN = "tokens_per_s"  # a metric of its own for each kind of run
METHOD, ENTRY_POINT = f"tags.`{names.TAG_METHOD.name}`", f"tags.`{names.TAG_ENTRY_POINT.name}`"
STATUS, KIND = f"tags.`{names.TAG_STATUS.name}`", f"tags.`{names.TAG_KIND.name}`"
TOLD_EVERY = 100  # runs


@dataclass(frozen=True)
class SortKey:
    """One column to sort by. Runs without a value come last in both directions."""

    column: Column
    descending: bool

    def term(self, metric: str | None = None) -> str | None:
        """The column as MLflow's ``order_by``; None if a server cannot sort so: it sorts parameters as text.

        metric: what to sort by instead.
        """
        name = metric or self.column.meant.removeprefix("metrics.")
        if name == "date":
            what = "attributes.start_time"
        elif name in METRICS:
            what = f"metrics.`{name}`"
        else:
            return None
        return f"{what} {'DESC' if self.descending else 'ASC'}"

    @property
    def is_throughput(self) -> bool:
        return self.column.meant == THROUGHPUT_COLUMN

    @property
    def is_stored(self) -> bool:
        """Whether all runs that have the column have it in the store."""
        return not self.is_throughput and self.column.meant.removeprefix("metrics.") not in NOT_STORED


@dataclass(frozen=True)
class Question:
    """One search of a store. order: None if the server cannot sort so. decided: whether it decides the whole filter.

    comes_last: its runs lack what is sorted by, so that they come after all that have it.
    """

    condition: str
    order: tuple[str, ...] | None
    decided: bool = True
    comes_last: bool = False


def questions(condition: "RunFilter | None", keys: Sequence[SortKey]) -> list[Question]:
    """The searches whose results, together, sorted and cut, are the table."""
    stored = [f"{METHOD} IS NOT NULL", *([condition.text] if condition else [])]
    rest = [condition.for_server] if condition and condition.for_server else []
    # begun runs and those of version 0.1 have an entry point, refused runs a status
    others = [[f"{METHOD} IS NULL", f"{ENTRY_POINT} IS NOT NULL", *rest]]
    others.append([f"{METHOD} IS NULL", f"{ENTRY_POINT} IS NULL", f"{STATUS} IS NOT NULL", *rest])
    order = _order([key.term() for key in keys]) if all(key.is_stored for key in keys) else None
    asked = [Question(" AND ".join(clauses), order, decided=False) for clauses in others]
    if not any(key.is_throughput for key in keys):
        return [Question(" AND ".join(stored), _order([key.term() for key in keys])), *asked]
    for kind, metric in THROUGHPUT.items():
        terms = [key.term(metric.name if key.is_throughput else None) for key in keys]
        asked.append(Question(" AND ".join([f"{KIND} = '{kind}'", *stored]), _order(terms)))
    without = [f"{KIND} != '{kind}'" for kind in THROUGHPUT]
    terms = [key.term() for key in keys if not key.is_throughput]
    comes_last = keys[0].is_throughput
    return [*asked, Question(" AND ".join([*without, *stored]), _order(terms), comes_last=comes_last)]


def read_rows(
    store: "Store",
    experiment_name: str | None,
    condition: "RunFilter | None",
    keys: Sequence[SortKey],
    limit: int | None,
    tell: Callable[[int], None],
) -> tuple[list[RunRow], bool]:
    """The rows among which the first ``limit`` are, the newest first; and whether there are more that fit.

    tell: is told how many runs were read.
    """
    from ttt_mlflow.tracking.query import PAGE

    page = PAGE if limit is None else min(limit + 1, PAGE)
    found: dict[str, RunRow] = {}
    more, read = False, 0

    def fitting(question: Question) -> Iterator[RunRow]:
        nonlocal read
        for run in store.each(question.condition, experiment_name, question.order or DATE_ORDER, page=page):
            read += 1
            if read % TOLD_EVERY == 0:
                tell(read)
            row = store_row(run)
            decided = question.decided or condition is None or (row is not None and condition.fits_from_server(row))
            if row and is_wanted(row, condition) and decided:
                yield row

    for question in questions(condition, keys):
        if question.comes_last and limit is not None and sum(_has(row, keys[0]) for row in found.values()) >= limit:
            more = True
            continue
        rows = fitting(question)
        # what the server cannot sort is all read
        found |= {row.id: row for row in islice(rows, limit if question.order else None)}
        more |= next(rows, None) is not None
    return sorted(found.values(), key=lambda row: row.started_at, reverse=True), more


def is_wanted(row: RunRow, condition: "RunFilter | None") -> bool:
    """Whether the kind of run belongs into the table: sweeps and comparisons only if the filter asks for a kind."""
    return row.kind in KINDS or bool(condition and condition.names_kind)


def _has(row: RunRow, key: SortKey) -> bool:
    return key.column.value(row) is not None


def _order(terms: Sequence[str | None]) -> tuple[str, ...] | None:
    """The terms; None if a server cannot sort by one of them."""
    known = tuple(term for term in terms if term is not None)
    return (known or DATE_ORDER) if len(known) == len(terms) else None

"""Carries out the command table: finds runs on this disk or in a store, filters, sorts and limits them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ttt_mlflow.app.folder_rows import read_folder
from ttt_mlflow.app.output import print_error, print_text, working
from ttt_mlflow.app.store_rows import SortKey, is_wanted, read_rows
from ttt_mlflow.config import DEFAULT_LOGDIR
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.report.columns import CATALOG, Column, column, refuse_unknown
from ttt_mlflow.report.table import FORMATS

if TYPE_CHECKING:
    from ttt_mlflow.tracking.filters import RunFilter

LIMIT = 200
NEWEST_FIRST = "-date"


@dataclass(frozen=True)
class Asked:
    """What the table is to show, as given. columns, sort: comma-separated names. limit: a number; 0 for all runs."""

    logdir: str | None = None
    tracking_uri: str | None = None
    experiment_name: str | None = None
    condition: str | None = None
    columns: str | None = None
    sort: str = NEWEST_FIRST
    limit: str = str(LIMIT)
    form: str = "text"

    @property
    def from_store(self) -> bool:
        return bool(self.tracking_uri or self.experiment_name)


@dataclass
class Found:
    """The runs that fit. place: where. looked_at: how many runs were there; None: a server was not asked for all.

    more: whether runs were left out by the limit. unread: a line for each record that could not be read.
    """

    place: str
    rows: list[RunRow] = field(default_factory=list)
    looked_at: int | None = None
    more: bool = False
    unread: list[str] = field(default_factory=list)


def print_table(asked: Asked) -> int:
    """Print the table and return the exit code: 4 if a record is damaged, which is named on standard error.

    Raises BadInput for unknown columns, for a filter that MLflow does not understand or that fits nothing, and for a
    store that cannot be read.
    """
    columns = None if asked.columns is None else [column(name) for name in _words("columns", asked.columns)]
    keys = [SortKey(column(name.lstrip("-")), name.startswith("-")) for name in _words("sort", asked.sort)]
    if asked.form not in FORMATS:
        raise BadInput(
            f"format={asked.form}: not allowed; format takes {', '.join([*FORMATS][:-1])} or {[*FORMATS][-1]}"
        )
    limit = _limit(asked.limit)
    if asked.from_store and asked.logdir is not None:
        raise BadInput(
            f"{asked.logdir}: the records of a folder and the runs of a store are different tables; "
            "give either a folder, or --tracking-uri or --experiment-name"
        )
    condition = parsed_filter(asked.condition)
    needed = [*(columns or []), *(key.column for key in keys)]
    read = _from_store if asked.from_store else _from_folder
    found = read(asked, condition, needed, keys)
    for line in found.unread:
        print_error(f"Error: {line}; the table goes on without it")
    if condition and not found.rows:
        there = "no run" if found.looked_at is None else f"none of the {found.looked_at:,} records"
        raise BadInput(
            f"filter={condition.text}: {there} in {found.place} fits; without the filter the table shows what there is"
        )
    refuse_unknown(columns or [], "columns", found.rows)
    refuse_unknown([key.column for key in keys], "sort", found.rows)
    total = len(found.rows)
    for key in reversed(keys):
        found.rows = _sorted(found.rows, key)
    shown = found.rows[:limit]
    if not shown and asked.form == "text":
        print_text(f"No records in {found.place}." if not asked.from_store else f"No runs in {found.place}.")
    else:
        print_text(FORMATS[asked.form](shown, columns))
    if found.more or len(shown) < total:
        what = (
            f"the newest {len(shown):,}" if asked.sort == NEWEST_FIRST else f"the first {len(shown):,} by {asked.sort}"
        )
        of = "there are more" if found.more else f"{total - len(shown):,} of {total:,} runs are left out"
        print_error(f"Shown: {what}; {of}. --limit 0 shows all.")
    return DamagedRecord.exit_code if found.unread else 0


def _limit(text: str) -> int | None:
    """The most runs to show; None: all."""
    if not (text.isascii() and text.isdecimal()):
        raise BadInput(f"limit={text}: not allowed; limit takes a whole number of at least 0; 0 shows all runs")
    return int(text) or None


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.lstrip("-") for word in words):
        raise BadInput(f"{option}={text}: not allowed; {option} takes names of columns, comma-separated")
    return words


def parsed_filter(condition: str | None) -> "RunFilter | None":
    """The filter; None for none. Raises BadInput for one that MLflow does not understand."""
    if not condition or not condition.strip():
        return None
    from ttt_mlflow.tracking.filters import RunFilter

    return RunFilter(condition)


def _from_folder(
    asked: Asked, condition: "RunFilter | None", needed: Sequence[Column], keys: Sequence[SortKey]
) -> Found:
    folder = asked.logdir or DEFAULT_LOGDIR
    found = Found(folder)
    # a name that the catalog does not have may be that of a time series
    asked_for = [*(one.name for one in needed), *(condition.metrics if condition else [])]
    with_series = any(name not in CATALOG for name in asked_for)

    def fits(row: RunRow) -> bool:
        return is_wanted(row, condition) and (condition is None or condition.fits(row))

    read = read_folder(folder, fits, with_series)
    found.rows, found.unread, found.looked_at = read.rows, read.unread, read.looked_at
    return found


def _from_store(
    asked: Asked, condition: "RunFilter | None", needed: Sequence[Column], keys: Sequence[SortKey]
) -> Found:
    from ttt_mlflow.tracking.query import open_store
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    with open_store(resolve_tracking_uri(asked.tracking_uri)) as store, working("reading runs") as say:
        found = Found(f"{store.place}, experiment {asked.experiment_name}" if asked.experiment_name else store.place)

        def tell(read: int) -> None:
            say(f"reading runs: {read:,}")

        found.rows, found.more = read_rows(store, asked.experiment_name, condition, keys, _limit(asked.limit), tell)
    return found


def _sorted(rows: Sequence[RunRow], key: SortKey) -> list[RunRow]:
    """The rows by one column, numbers before texts. Equal rows keep their order."""
    valued = [(key.column.value(row), row) for row in rows]
    there = [(isinstance(value, str), value, row) for value, row in valued if value is not None]
    there.sort(key=lambda one: one[:2], reverse=key.descending)
    return [row for _, _, row in there] + [row for value, row in valued if value is None]

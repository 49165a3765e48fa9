"""The columns of the table of runs: a run's own facts, and any parameter, metric or tag by its name."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

from ttt_mlflow import names
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.report.text import number

Value = str | int | float | bool | datetime | None  # None: the run does not have it


def _name(row: RunRow) -> str | None:
    """The run's name; None for a record of a kind that this version does not know, whose name it cannot make."""
    try:
        return row.run.name
    except BadInput:
        return None


THROUGHPUT = {"decode": names.DECODE_TOKENS_PER_S, "prefill": names.PREFILL_TOKENS_PER_S}
# facts of a run that are no parameter, metric or tag
OWN: dict[str, Callable[[RunRow], Value]] = {
    "id": lambda row: row.id,
    "date": lambda row: row.started_at,
    "name": _name,
    "kind": lambda row: row.kind,
    "status": lambda row: row.status,
    "tokens_per_s": lambda row: row.metrics.get(THROUGHPUT[row.kind].name) if row.kind in THROUGHPUT else None,
}
# short names -> what they stand for
SHORT = {
    "model": "model_name",
    "compile": "use_compile",
    "graph": "cuda_graph",
    "gpu": names.TAG_GPU_NAME.name,
    "throughput": "tokens_per_s",
    "half_width": names.RELATIVE_HALF_WIDTH_PCT.name,
    "verdict": names.TAG_VERDICT.name,
}
TITLES = {
    "model_name": "model",
    "inner_net": "inner net",
    "attn_impl": "attention",
    names.PROMPTLEN.name: "prompt",
    names.GENLEN.name: "generated",
    "use_compile": "compile",
    "cuda_graph": "graph",
    "head_dim": "head dim",
    names.TAG_GPU_NAME.name: "GPU",
    "tokens_per_s": "tokens/s",
    names.RELATIVE_HALF_WIDTH_PCT.name: "± %",
    names.ACCURACY_DIFFERING_TOKENS_PCT.name: "tokens differ %",
    names.ACCURACY_RATIO.name: "of PyTorch's",
    names.TAG_VERDICT.name: "verdict",
}
PARAMETERS = tuple(dict.fromkeys([*RunConfig.model_fields, *MicroConfig.model_fields]))
METRICS = tuple(metric.name for metric in (*names.METRICS, *names.GPU_METRICS))
TAGS = tuple(tag.name for tag in names.TAGS)
CATALOG = frozenset([*OWN, *SHORT, *PARAMETERS, *METRICS, *TAGS])
PREFIXES = ("params.", "metrics.", "tags.")  # as in a filter: for a name that is several things

NUMBER = re.compile(r"[+-]?\d+|[+-]?(\d+\.\d*|\.?\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Column:
    """One column. name: what a machine reads, and what was asked for. title: what a person reads."""

    name: str
    title: str

    @property
    def meant(self) -> str:
        """The full name: ``gpu`` means ``ttt.gpu_name``."""
        return SHORT.get(self.name, self.name)

    def value(self, row: RunRow) -> Value:
        """The value at full precision; None if the run does not have it."""
        name = self.meant
        if name in OWN:
            return OWN[name](row)
        if name == names.GENLEN.name and row.kind == "prefill":
            return None  # a parameter of every run, but a prefill generates nothing
        where, _, rest = name.partition(".")
        kinds = [where] if name.startswith(PREFIXES) else ["params", "metrics", "tags"]
        name = rest if name.startswith(PREFIXES) else name
        for kind in kinds:
            if kind == "params" and name in row.params:
                return typed(row.params[name]) if row.params[name] else None
            if kind == "metrics" and name in row.metrics:
                return row.metrics[name] if math.isfinite(row.metrics[name]) else None
            if kind == "tags" and name in row.tags:
                return row.tags[name] or None
        return None

    def text(self, row: RunRow) -> str:
        """The value for a person; empty if the run does not have it."""
        value = self.value(row)
        if self.meant == names.TAG_VERDICT.name:
            return verdict_text(row)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, datetime):
            return f"{value.astimezone():%Y-%m-%d %H:%M}"
        if isinstance(value, float):
            return number(value)
        return "" if value is None else str(value)


def column(name: str) -> Column:
    """The column of that name, with the title that a table has for it."""
    return Column(name, TITLES.get(SHORT.get(name, name), name))


def columns(asked: Iterable[str]) -> list[Column]:
    return [column(name) for name in asked]


# parameters that are metrics too
LENGTHS = (names.BATCH.name, names.PROMPTLEN.name, names.GENLEN.name)
# Of decode and prefill runs. Those in the middle are left out where all runs have the same.
MODEL_COLUMNS = columns(
    [
        *("id", "date", "kind", "model_name", "inner_net", *LENGTHS, "dtype", "use_compile", "cuda_graph"),
        *(names.TAG_GPU_NAME.name, "tokens_per_s", names.RELATIVE_HALF_WIDTH_PCT.name),
        *(names.TAG_VERDICT.name, "status"),
    ]
)
# of runs with profile=accuracy, before the verdict
ACCURACY_COLUMNS = columns([names.ACCURACY_DIFFERING_TOKENS_PCT.name, names.ACCURACY_RATIO.name])
MICRO_COLUMNS = [
    Column("id", "micro-benchmark"),
    *columns(["date", "kernels", "batches", "heads", "head_dim", "dtype"]),
    *columns([names.TAG_GPU_NAME.name, names.TAG_VERDICT.name, "status"]),
]


def for_people(rows: Sequence[RunRow]) -> list[Column]:
    """The columns of decode and prefill runs. The prompt and what was generated are shown where the runs differ.

    The kind is shown unless all are decode runs.
    """
    hidden = {
        name for name in LENGTHS[1:] if len({column(name).value(row) for row in rows if row.kind in THROUGHPUT}) < 2
    }
    if all(row.kind == "decode" for row in rows):
        hidden.add("kind")
    return [one for one in _model_columns(rows) if one.name not in hidden]


def for_machines(rows: Sequence[RunRow]) -> list[Column]:
    """The columns of decode and prefill runs, whatever their values, and of micro-benchmarks if there are some."""
    found = _model_columns(rows)
    found.insert(len(found) - 1, column(names.TAG_REASONS.name))
    if any(row.kind == MicroConfig.entry_point for row in rows):
        there = {one.name for one in found}
        found += [one for one in MICRO_COLUMNS if one.name not in there]
    return found


def _model_columns(rows: Sequence[RunRow]) -> list[Column]:
    """Those of decode and prefill runs; the accuracy is among them if one of ``rows`` has it."""
    accuracy = [one for one in ACCURACY_COLUMNS if any(one.value(row) is not None for row in rows)]
    return [*MODEL_COLUMNS[:-2], *accuracy, *MODEL_COLUMNS[-2:]]


def refuse_unknown(asked: Sequence[Column], option: str, rows: Sequence[RunRow]) -> None:
    """Raise BadInput for a name that neither the catalog nor one of the runs has."""
    for one in asked:
        if one.name not in CATALOG and all(one.value(row) is None for row in rows):
            raise BadInput(f"{option}={one.name}: no such column; {_known(one.name, rows)}")


def _known(name: str, rows: Sequence[RunRow]) -> str:
    """What can be asked for instead: names like ``name``, and what the runs have, else what the catalog has."""
    groups = {
        "parameters": sorted({one for row in rows for one in row.params}) or PARAMETERS,
        "metrics": sorted({one for row in rows for one in row.metrics}) or METRICS,
        "tags": sorted({one for row in rows for one in row.tags}) or TAGS,
    }
    known = [*OWN, *SHORT, *(one for names_of_group in groups.values() for one in names_of_group)]
    near = get_close_matches(name, known, n=3)
    advice = f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
    listed = ", ".join(f"the {group} {', '.join(names_of_group)}" for group, names_of_group in groups.items())
    return f"{advice}the columns are {', '.join([*OWN, *SHORT])}, {listed}"


def is_invalid(row: RunRow) -> bool:
    """Whether the run is invalid. Its numbers are shown in gray."""
    return row.tags.get(names.TAG_VERDICT.name) == "invalid"


def verdict_text(row: RunRow) -> str:
    """For example ``invalid: drift``; empty for a run without a verdict."""
    verdict, reasons = row.tags.get(names.TAG_VERDICT.name), row.tags.get(names.TAG_REASONS.name, "")
    return ": ".join(filter(None, [verdict, reasons.replace(",", ", ")]))


def typed(text: str) -> str | int | float | bool:
    """The text of a parameter as the number or the truth value that it is. What no float can hold stays a text."""
    if text in ("true", "false"):
        return text == "true"
    if not NUMBER.fullmatch(text) or not math.isfinite(value := float(text)):
        return text
    return int(text) if text.lstrip("+-").isdecimal() else value

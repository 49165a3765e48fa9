"""Decides whether an MLflow run is the one that ``mlflow run`` made for this process."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttt_mlflow.names import TAG_JOURNAL_ID

if TYPE_CHECKING:
    from mlflow.entities import Run

# the commands of MLproject, and the entry point of each
ENTRY_POINTS = {"run": "main", "micro": "micro", "compare": "compare", "sweep": "sweep"}


@dataclass(frozen=True)
class Candidate:
    """The run that MLFLOW_RUN_ID names, and what ``mlflow run`` would have written if it had made it for this process.

    entry_point: None if MLproject has no entry point for this command. params: of the command line, in its words;
    None if it is not one that ``mlflow run`` writes.
    """

    run_id: str
    entry_point: str | None
    params: Mapping[str, str] | None

    @classmethod
    def of_words(cls, run_id: str, words: Sequence[str]) -> "Candidate":
        """words: the command line after the program."""
        command, *rest = words or ("",)
        return cls(run_id, ENTRY_POINTS.get(command), params_of(rest))

    @property
    def possible(self) -> bool:
        """Whether the run can be one for this process, as far as the command line shows."""
        return self.entry_point is not None and self.params is not None


def params_of(words: Sequence[str]) -> dict[str, str] | None:
    """The parameters of a command line as ``mlflow run`` writes it; None if it cannot be one.

    MLproject's template has ``--name=value``, and MLflow adds ``--name value`` for what `-P` gives beyond it.
    """
    params: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        name, equals, value = waiting.pop(0).partition("=")
        if not name.startswith("--") or name[2:] in params or not (equals or waiting):
            return None
        params[name[2:]] = value if equals else waiting.pop(0)
    return params


def why_not(run: "Run", candidate: Candidate, journal_id: str | None = None) -> str | None:
    """Why ``run`` is not one that ``mlflow run`` made for this process, or None if it is.

    journal_id: of the record for which it is asked; None: of no record.
    """
    tags = run.data.tags
    if run.info.lifecycle_stage != "active":
        return "it was deleted"
    if tags.get("mlflow.source.type") != "PROJECT":
        return "`mlflow run` did not make it"
    if candidate.entry_point is None or tags.get("mlflow.project.entryPoint") != candidate.entry_point:
        return "it belongs to another entry point"
    if tags.get(TAG_JOURNAL_ID.name, journal_id) != journal_id:
        return "it belongs to another record"
    if run.info.status != "RUNNING":
        return f"it is {run.info.status}"
    if run.data.metrics:
        return "it has metrics"
    if not _same(run.data.params, candidate.params):
        return "its parameters are not those of this command line"
    return None


def _same(stored: Mapping[str, str], given: Mapping[str, str] | None) -> bool:
    """Whether the stored parameters are those given. ``mlflow run`` stores each value quoted for its shell."""
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    if given is None:
        return False
    return dict(stored) == {name: shlex.quote(value)[:MAX_PARAM_VAL_LENGTH] for name, value in given.items()}

"""Which process works on a run that a store shows as RUNNING, as far as the run and this host tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttt_mlflow import names
from ttt_mlflow.tracking.stuck_runs import RUNNING, Here, RunFacts, has_ended, process_of, why_stuck


@dataclass(frozen=True)
class AtWork:
    """A process that works on a run, or may. is_certain: it lives on this host. until: when it ends at the latest."""

    host: str
    pid: int
    is_certain: bool
    until: str

    @classmethod
    def of_words(cls, words: Mapping[str, Any] | None) -> "AtWork | None":
        return cls(**words) if words else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def who_works_on(run: RunFacts, here: Here) -> AtWork | None:
    """None if the run has ended, if its process is gone, or if it is over its time. ``sync`` works on no run."""
    process = process_of(run)
    if run.status != RUNNING or process is None or process.publishes or why_stuck(run, here):
        return None
    until = run.tags.get(names.TAG_ALIVE_UNTIL.name, "")
    return AtWork(process.host, process.pid, has_ended(process, run.started_at, here) is False, until)

"""Runs in this process, recorded on disk and not published."""

import io
import json
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import Killed, TTTError
from ttt_mlflow.profilers.nsys import Nsys
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.run import model_run, recording
from ttt_mlflow.run.plan import resolve


def a_signal_at_the_first_end(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """SIGINT comes when a run's end has just been recorded for the first time; returns each status recorded."""
    record_the_load, ends = recording._record_load_at_the_end, []

    def interrupted_once(journal: Journal) -> None:
        record_the_load(journal)
        ends.append(journal.status["status"])
        if len(ends) == 1:
            raise Killed(signal.SIGINT)

    monkeypatch.setattr(recording, "_record_load_at_the_end", interrupted_once)
    return ends


@dataclass
class Measured:
    """One run and what it said."""

    journal: Journal
    output: str
    failure: TTTError | Killed | None

    @property
    def metrics(self) -> dict[str, float]:
        return self.journal.metrics

    @property
    def artifacts(self) -> set[str]:
        folder = self.journal.artifacts
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    @property
    def log(self) -> str:
        return (self.journal.artifacts / "log.txt").read_text()

    @property
    def steps(self) -> pd.DataFrame:
        return pd.read_csv(self.journal.artifacts / "timing/steps.csv")

    @property
    def passes(self) -> dict[str, Any]:
        return json.loads((self.journal.artifacts / "timing/passes.json").read_text())


def measured_in(
    logdir: Path, asked: dict[str, Any], console: Console | None = None, nsys: Nsys | None = None
) -> Measured:
    """Measure a configuration as the command line does, its record under ``logdir``; ``nsys`` works on a CPU too."""
    resolved = resolve(RunConfig.parse(asked))
    if nsys:
        resolved = replace(resolved, used=resolved.used.model_copy(update={"profile": ("nsys",)}), nsys=nsys)
    journal = Journal.create(logdir, resolved.asked.model_dump(mode="json"))
    console = console or Console(file=io.StringIO(), width=100)
    failure: TTTError | Killed | None = None
    try:
        model_run.run(resolved, journal, console, imports_s=1.5)
    except (TTTError, Killed) as error:
        failure = error
    output = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return Measured(journal, output, failure)

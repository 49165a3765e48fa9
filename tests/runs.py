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

from ttt_mlflow.app.measure import carry_out, new_record
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import Killed, TTTError
from ttt_mlflow.micro.plan import MicroPlan
from ttt_mlflow.profilers.nsys import Nsys
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.run.plan import Plan, make_plan


def a_signal_at_the_first_end(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """SIGINT comes when a run's end has just been recorded for the first time; returns each status recorded."""
    set_status, ends = Journal.set_status, []

    def interrupted_once(self: Journal, status: str, message: str | None = None, exit_code: int | None = None) -> None:
        set_status(self, status, message, exit_code)
        ends.append(status)
        if len(ends) == 1:
            raise Killed(signal.SIGINT)

    monkeypatch.setattr(Journal, "set_status", interrupted_once)
    return ends


@dataclass
class Carried:
    """One run and what it said. failure: what it returned, or what it raised."""

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


def carried_out(plan: Plan | MicroPlan, logdir: Path, console: Console | None = None) -> Carried:
    """Carry out ``plan``, its record under ``logdir``."""
    record = new_record(plan, logdir)
    console = console or Console(file=io.StringIO(), width=100)
    failure: TTTError | Killed | None
    try:
        failure = carry_out(plan, record, console, imports_s=1.5).failure
    except Killed as killed:
        failure = killed
    output = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return Carried(record, output, failure)


def measured_in(
    logdir: Path,
    asked: dict[str, Any],
    console: Console | None = None,
    nsys: Nsys | None = None,
    profile: tuple[str, ...] = (),
) -> Carried:
    """Measure a configuration, its record under ``logdir``; ``profile`` and ``nsys`` as if there were a GPU."""
    plan = make_plan(RunConfig.parse(asked))
    profile = profile or (("nsys",) if nsys else plan.used.profile)
    plan = replace(plan, used=plan.used.model_copy(update={"profile": profile}), nsys=nsys or plan.nsys)
    return carried_out(plan, logdir, console)

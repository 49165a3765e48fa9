"""Carries out ``ttt-mlflow doctor --neighbors``: whether measuring on several GPUs at once changes the numbers."""

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ttt_mlflow import names
from ttt_mlflow.app.ab.parent import end_parent, publish_all
from ttt_mlflow.app.job import record_fault
from ttt_mlflow.app.neighbors.answer import Answer, answer_of
from ttt_mlflow.app.neighbors.cases import Case, cases
from ttt_mlflow.app.neighbors.turns import ALONE, TOGETHER, Turn, Turns
from ttt_mlflow.app.output import guard_output, print_error, print_text, show_error
from ttt_mlflow.app.publishing import Destination, Publishing
from ttt_mlflow.app.signals import SignalHandler
from ttt_mlflow.app.sweep.board import in_minutes
from ttt_mlflow.app.sweep.executors.process import ProcessExecutor, chosen_gpus
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.app.sweep.host_notes import PREFIX
from ttt_mlflow.app.sweep.task import Task
from ttt_mlflow.config import CompareConfig
from ttt_mlflow.errors import NOTHING_MEASURED, BadInput, Killed, PublishFailed, RunFailed
from ttt_mlflow.measurement.neighbors_cache import keep_neighbors
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.comparison_export import comparison_data
from ttt_mlflow.report.comparison_text import comparison_text
from ttt_mlflow.report.text import json_text, printable
from ttt_mlflow.telemetry.gpus import Gpu
from ttt_mlflow.telemetry.siblings import gpu_faults
from ttt_mlflow.tracking.later import sync_command
from ttt_mlflow.tracking.own_run import note_target
from ttt_mlflow.tracking.store import check_tracking, resolve_destination

OFFER = "`ttt-mlflow sweep --exclusive` measures launch-bound runs alone on the host"


def run_neighbors(destination: Destination, as_json: bool) -> int:
    """Measure, print and return the exit code: 0 measured, 1 a run failed, 4 measured but not published, 128 + signal.

    Raises BadInput, before anything is measured, and Killed before the first run has ended.
    """
    with SignalHandler() as signals:
        try:
            gpus = chosen_gpus(None)
            asked, notes = _checked(gpus)
            destination.limits()
            guard_output()
            with ProcessExecutor(gpus) as executor:
                executor.prepare()
                asked = _those_that_fit(asked, executor, notes)
                return _Neighbors(asked, executor, destination, notes).carry_out(signals, as_json)
        except Killed as killed:
            killed.during = NOTHING_MEASURED
            raise


def _checked(gpus: Sequence[Gpu]) -> tuple[list[Case], list[str]]:
    """What is to be measured, and what distinguishes a GPU from its siblings. Raises BadInput."""
    if len(gpus) < 2:
        found = f"this host has one that CUDA can use: {gpus[0]}" if gpus else "this host has none that CUDA can use"
        raise BadInput(f"neighbors: it takes two GPUs or more; {found}")
    faults = gpu_faults(gpus)
    if busy := [fault.text for fault in faults if fault.kind == "busy"]:
        raise BadInput("\n".join(f"neighbors: {text}; wait until it is idle" for text in busy))
    return cases(), [fault.text for fault in faults]


def _those_that_fit(asked: Sequence[Case], executor: ProcessExecutor, notes: list[str]) -> list[Case]:
    """The cases that these GPUs have the memory for. Raises BadInput for what is not possible here."""
    checked = executor.check([Cell(case.config) for case in asked])
    faults = [line for one in checked for line in (one.fault or one.missing or "").splitlines()]
    if faults:
        raise BadInput("\n".join(dict.fromkeys(faults)))
    fitting = [case for case, one in zip(asked, checked, strict=True) if one.prediction.fits is not False]
    notes += [f"{case.name}: {case.config.run_name} is predicted not to fit" for case in asked if case not in fitting]
    if not fitting:
        raise BadInput("\n".join(f"neighbors: {note}" for note in notes))
    return fitting


@dataclass
class _Neighbors:
    """One comparison of alone and together, and what its steps share."""

    cases: Sequence[Case]
    executor: ProcessExecutor
    destination: Destination
    notes: list[str]
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def carry_out(self, signals: SignalHandler, as_json: bool) -> int:
        logdir, uri = Path(self.destination.logdir).absolute(), self._store()
        config = CompareConfig(baseline=(ALONE,), candidate=(TOGETHER,), include_invalid=True)
        parent = Journal.create(logdir, config.model_dump(mode="json"), config.entry_point)
        note_target(parent, uri, None, self.destination.experiment_name)
        places = [str(gpu) for gpu in self.executor.gpus]
        turns = Turns(self.cases, places)
        for place in places:
            share = self.executor.shares.get(place)
            self._say(f"GPU {place}: {share.in_words if share else 'no share of the host is known'}")
        killed: Killed | None = None
        try:
            self._measure(turns, parent, logdir)
        except Killed as stopped:
            killed = stopped
            if not any(one.record for one in turns.runs):
                shutil.rmtree(parent.path, ignore_errors=True)
                raise
        except Exception as error:  # raised again: the record has an end
            record_fault(parent, error)
            raise
        finally:
            signals.stopping = True  # from here on, a signal does not interrupt publishing
        answer = answer_of(self.cases, turns.runs, places)
        if answer:
            self.notes += answer.notes
        end_parent(parent, answer.report if answer else None, str(killed) if killed else None)
        self._describe(parent, answer)
        published = self._publish(parent, turns)
        failed = [one for one in turns.runs if not one.is_complete]
        code = killed.exit_code if killed else RunFailed.exit_code if failed or answer is None else 0
        code = code or (0 if published else PublishFailed.exit_code)
        print_text(self._json(answer, parent, code) if as_json else self._text(answer, parent))
        if killed:
            print_error(f"Stopped by {killed} after {len(turns.runs)} runs; what was measured is recorded")
        elif answer:
            self._keep(answer)
        return code

    def _store(self) -> str:
        """Where the runs will go. Raises BadInput, before anything is measured, for what is no store."""
        uri = resolve_destination(self.destination.tracking_uri)
        if reason := check_tracking(uri):
            place = without_secrets(uri)
            print_error(f"Warning: tracking_uri={place}: cannot be reached ({reason}); the runs are kept on this disk")
        return uri

    def _measure(self, turns: Turns, parent: Journal, logdir: Path) -> None:
        began, count = time.monotonic(), len(turns.all())
        done = 0

        def task(case: Case) -> Task:
            cell = Cell(case.config)
            target = {**parent.target, "run_id": None}
            return Task(cell, cell.key, logdir, "", parent.journal_id, target)

        status = self.console.status("measuring") if sys.stderr.isatty() else None

        def show(turn: Turn) -> None:
            if status:
                status.update(printable(turn.text))

        with status or nullcontext():
            for turn, found in turns.measure(self.executor, task, show):
                done += 1
                left = (time.monotonic() - began) / done * (count - done)
                rates = ", ".join(_rate(one.record) if one.record else "failed" for one in found)
                said = f"; about {in_minutes(left)} left" if count > done else ""
                self._say(f"{done} of {count}, {turn.text}: {rates} tokens/s{said}")

    def _describe(self, parent: Journal, answer: Answer | None) -> None:
        """Add to the description what the comparison does not have."""
        lines = [*(answer.slower if answer else ()), *self.notes]
        if lines:
            parent.set_description("\n".join([parent.description, "", *(f"- {line}" for line in lines)]))

    def _publish(self, parent: Journal, turns: Turns) -> bool:
        records = {"": [one.record for one in turns.runs if one.record]}
        try:
            with Publishing(self.destination, parent=None) as publishing:
                publishing.start()
                place = publish_all(parent, records, publishing)
        except (BadInput, PublishFailed) as error:  # bad input: the server refuses, but all is measured
            show_error(error)
            later = sync_command(Path(self.destination.logdir).absolute(), str(parent.target["tracking_uri"]))
            self._say(f"The runs are kept; `{later}` publishes them later")
            return False
        self._say(f"MLflow run {place.run_id} in {place.tracking_uri}, with {len(records[''])} child runs")
        return True

    def _keep(self, answer: Answer) -> None:
        uuids = [gpu.uuid.removeprefix(PREFIX) for gpu in self.executor.gpus]
        if message := keep_neighbors(uuids, answer.changes, answer.slower):
            self._say(f"Note: {message}")

    def _text(self, answer: Answer | None, parent: Journal) -> str:
        if answer is None:
            return "\n".join(["Too little was measured: nothing was measured both alone and together.", *self._noted()])
        lines = [comparison_text(answer.report), ""]
        lines += answer.slower or ["No GPU is slower than its siblings."]
        if answer.differs:
            lines.append(f"Neighbors change the numbers of this host. {OFFER}")
        return "\n".join([*lines, *self._noted(), f"Record: {parent.path}"])

    def _noted(self) -> list[str]:
        return [f"Note: {note}" for note in self.notes]

    def _json(self, answer: Answer | None, parent: Journal, code: int) -> str:
        shares = self.executor.shares
        found: dict[str, Any] = {
            "exit_code": code,
            "gpus": [
                {
                    **{"number": gpu.number, "name": gpu.name, "uuid": gpu.uuid.removeprefix(PREFIX)},
                    "host": shares[str(gpu)].as_json() if str(gpu) in shares else None,
                }
                for gpu in self.executor.gpus
            ],
            "comparison": comparison_data(answer.report) if answer else None,
            "slower": list(answer.slower) if answer else [],
            "notes": self.notes,
            "record": str(parent.path),
        }
        return json_text(found)

    def _say(self, text: str) -> None:
        """Print to standard error, so that standard output has the answer alone."""
        self.console.print(printable(without_secrets(text), "\n"), markup=False, highlight=False, soft_wrap=True)


def _rate(record: Journal) -> str:
    value = record.metrics.get(names.DECODE_TOKENS_PER_S.name)
    return "failed" if value is None else f"{value:,.0f}"

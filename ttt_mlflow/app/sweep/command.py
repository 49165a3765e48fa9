"""Carries out ``ttt-mlflow sweep``: checks every cell, measures what is missing, publishes one parent and its runs."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ttt_mlflow import names
from ttt_mlflow.app.job import may_take_s
from ttt_mlflow.app.output import guard_output, print_error, print_text, show_error
from ttt_mlflow.app.signals import SignalHandler
from ttt_mlflow.app.sweep.board import GIVEN_UP, MARK, Board, CellState, in_minutes, mark_done
from ttt_mlflow.app.sweep.check import Checked
from ttt_mlflow.app.sweep.executors import Ended, Executor
from ttt_mlflow.app.sweep.grid import Cell, cells_of, interleaved, is_registered, sweep_id, yardstick_of
from ttt_mlflow.app.sweep.host_notes import PREFIX, marked_gpus, neighbor_notes, not_known_note, slower_notes
from ttt_mlflow.app.sweep.live import Live, dry_run_text
from ttt_mlflow.app.sweep.measured import Alike, Measured, local_records, runs_of
from ttt_mlflow.app.sweep.others import look_for_a_twin, look_for_others
from ttt_mlflow.app.sweep.parent import Place, alone, children_of, end_parent, find_parent, open_parent, show_in
from ttt_mlflow.app.sweep.publication import SweepPublishing
from ttt_mlflow.app.sweep.results import write_report
from ttt_mlflow.app.sweep.schedule import Schedule
from ttt_mlflow.app.sweep.task import Task
from ttt_mlflow.app.sweep.yardstick import Yardstick
from ttt_mlflow.app.views import ui_lines
from ttt_mlflow.config import SweepConfig
from ttt_mlflow.errors import (
    BadInput,
    DamagedRecord,
    Killed,
    PublishFailed,
    RunFailed,
    TTTError,
    one_line,
)
from ttt_mlflow.measurement.method import METHOD
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.report.text import counted
from ttt_mlflow.telemetry.code import code_id
from ttt_mlflow.tracking.later import sync_command
from ttt_mlflow.tracking.run_values import record_id
from ttt_mlflow.tracking.sweeps import SweepRuns, link_to

LOOK_S = 1.0  # between two updates of the live table
PER_CELL_S = 60.0  # of the sweep's own work, generously; `ttt-mlflow janitor` may end what takes longer
SKIPPED = "skip_missing leaves it out"
FINISHED = "FINISHED"  # MLflow's status of a run that has ended well


def carry_out(
    config: SweepConfig,
    dry_run: bool,
    logdir: str,
    executor: Executor,
    publishing: SweepPublishing,
    signals: SignalHandler,
) -> int:
    """Check the cells, measure what is missing and return the exit code. Both helpers prepare already.

    Raises BadInput and Killed if nothing has been measured yet.
    """
    board = checked_board(config, executor)
    if dry_run:
        print_text(dry_run_text(board, in_order(board, executor.width)))
        return 0
    board.marked = marked_gpus(config, executor.gpus)
    publishing.start()
    guard_output()
    return _Sweep(config, Path(logdir).absolute(), board, executor, publishing, signals).carry_out()


def checked_board(config: SweepConfig, executor: Executor) -> Board:
    """The cells of the sweep, each checked where it would be measured. Raises BadInput with each fault in one line."""
    asked, yardstick = cells_of(config), yardstick_of(config)
    checked = _checked(asked, executor)
    measure = None
    if yardstick:
        (measure,) = executor.check([yardstick])
        if said := measure.fault or measure.missing:
            todo = "" if measure.fault else "; or measure none with yardstick=none"
            raise BadInput("\n".join(f"yardstick: {line}{todo}" for line in said.splitlines()))
    faults = [line for one in checked if one.fault for line in one.fault.splitlines()]
    missing = [one.missing for one in checked if one.missing]
    if missing and not config.skip_missing:
        faults += [f"{line}; or leave it out with skip_missing" for line in missing]
    if faults:
        raise BadInput("\n".join(dict.fromkeys(faults)))
    measured_first = Yardstick(yardstick, measure) if yardstick and measure else None
    board = Board(sweep_id(asked), _states(checked), yardstick=measured_first)
    if all(one.state == "skipped" for one in board.states):
        raise BadInput(f"skip_missing=true: nothing is left to measure: {missing[0]}")
    for one in board.states:
        one.alone = one.checked.launch_bound if config.exclusive else None
        if one.checked.prediction.fits is False and not config.try_all:
            one.state, one.reason = "predicted_oom", one.checked.too_large
    return board


def _checked(asked: Sequence[Cell], executor: Executor) -> list[Checked]:
    """What is found of each cell. A model of a preset that is not registered is one that is missing."""
    there = {cell.config.model_name: is_registered(cell.config.model_name) for cell in asked}
    found = iter(executor.check([cell for cell in asked if there[cell.config.model_name]]))
    return [
        next(found)
        if there[cell.config.model_name]
        else Checked(cell.config, missing=f"model_name={cell.config.model_name}: no such model is registered")
        for cell in asked
    ]


def _states(checked: Sequence[Checked]) -> list[CellState]:
    """One state for each cell, in the order of the cells; those that come out the same on this machine are one."""
    states: dict[str, CellState] = {}
    for one in checked:
        state = CellState(Cell(one.config), one)
        if one.missing:
            state.state, state.reason = "skipped", f"{one.missing}; {SKIPPED}"
        states.setdefault(Cell(one.used or one.config).key, state)
    return list(states.values())


def in_order(board: Board, width: int) -> list[CellState]:
    """The cells that are missing, in the order in which they are measured, ``width`` at once.

    With several at once, what is predicted to take longest comes first. Otherwise the turns go backwards: the largest
    batch is mostly given last, and no GPU is to wait for a long cell at the end. Those that are to be alone come last.
    """
    missing = [one.cell for one in board.states if one.state == "missing"]
    turns = [board.by_key[cell.key] for cell in interleaved(missing)]
    if width > 1:
        turns.reverse()
        turns.sort(key=lambda one: -(one.checked.prediction.seconds or 0.0))
    return sorted(turns, key=lambda one: bool(one.alone))


class _Sweep:
    """One sweep, and what its steps share."""

    def __init__(
        self,
        config: SweepConfig,
        logdir: Path,
        board: Board,
        executor: Executor,
        publishing: SweepPublishing,
        signals: SignalHandler,
    ) -> None:
        self.config, self.logdir, self.board = config, logdir, board
        self.executor, self.publishing, self.signals = executor, publishing, signals
        self.place = Place(publishing.uri, publishing.experiment_name)
        self.unpublished: list[Journal] = []
        self.alive_s = PER_CELL_S
        self.untold: list[Ended] = []  # what has ended since the store was told

    def carry_out(self) -> int:
        with alone(self.logdir, self.board.sweep_id):
            stored, answers = self._look_up()
            local = local_records(self.logdir, self.board.sweep_id)
            for damaged in local.damaged:
                print_error(f"Error: {damaged}; the sweep goes on without it")
            found = find_parent(local, stored, self.place, answers)
            children = children_of(found, local, stored)
            runs = runs_of(children, stored, answers)
            mark_done(self.board, runs, self.config.redo, self.executor.gpu_names)
            if self.board.yardstick:
                self.board.yardstick.remember(runs, Alike(code_id(), self.executor.gpu_names, str(METHOD)))
            self.unpublished = [one for one in children if not one.published]
            todo = in_order(self.board, self.executor.width)
            if stored and stored.status == FINISHED and not todo and not self.unpublished:
                return self._nothing_to_do(stored)
            look_for_others(stored)
            self.parent = open_parent(self.logdir, self.config, self.board.sweep_id, found, stored, self.place)
            try:
                self._begin(todo, stored, is_resumed=bool(found or stored))
                self._measure(todo)
            except BadInput:  # the store refuses
                if found:
                    end_parent(self.parent, "killed", "the store refused the sweep when it was resumed", 2)
                else:
                    shutil.rmtree(self.parent.path)
                raise
            except Killed as killed:
                return self._end(killed)
            except Exception as error:  # raised again, when the parent has an end
                self.signals.stopping = True
                end_parent(self.parent, "error", one_line(error), RunFailed.exit_code)
                with suppress(TTTError):
                    self.publishing.publish(self.parent)
                raise
            return self._end(None)

    # Before the first cell

    def _look_up(self) -> tuple[SweepRuns | None, bool]:
        """The sweep as the store has it, and whether the store answers."""
        try:
            return self.publishing.find(self.board.sweep_id), True
        except PublishFailed as error:
            self.publishing.lost = str(error)
            return None, False

    def _begin(self, todo: Sequence[CellState], stored: SweepRuns | None, is_resumed: bool) -> None:
        self.board.remarks = list(neighbor_notes(self.executor.gpus, self.config.exclusive is True))
        configs = [one.cell.config for one in todo]
        configs += [self.board.yardstick.cell.config] if self.board.yardstick else []
        self.alive_s = sum(map(may_take_s, configs)) + PER_CELL_S * (1 + len(self.board.states))
        show_in(self.parent, self.board)
        if stored:
            self.publishing.resume(self.parent, self.alive_s)
        else:
            self.publishing.begin(self.parent, self.alive_s)
            look_for_a_twin(self.publishing, self.parent, self.board.sweep_id)
        doing = f"Resuming the sweep of {self.parent.status['started_at'][:16]}" if is_resumed else "Sweep"
        gpu_names = ", ".join(self.executor.gpu_names)
        print_error(
            f"{doing}: {self.board.headline()}; on {self.executor.width} x {gpu_names}; records in {self.logdir}"
        )
        if len(self.executor.gpu_names) > 1:
            print_error("Warning: the GPUs are of different kinds; each number of the table names its own")
        for text in self.board.marked.values():
            print_error(f"Warning: {text}; the table marks its numbers with {MARK}")
        for note in filter(None, [*self.board.remarks, not_known_note(self.executor.gpus)]):
            print_error(f"Note: {note}")

    def _nothing_to_do(self, stored: SweepRuns) -> int:
        """All is there. A run that `mlflow run` made for it is told."""
        self.publishing.set_aside()
        self._tell_resumption(stored.run_id, stored.name, stored.experiment_id, None)
        print_text(self.board.text())
        print_text(f"All runs of this sweep are there: MLflow run {stored.run_id}; --redo all measures them again")
        return 0

    # Measuring

    def _measure(self, todo: Sequence[CellState]) -> None:
        schedule = Schedule(todo)
        with Live(self.board, self.executor.width, self.config.executor != "inline") as live:
            try:
                if self.board.yardstick and todo:
                    self._measure_yardstick(self.board.yardstick, live)
                while not schedule.is_done:
                    if not self.executor.gpus:
                        self._tell()  # before the next cell, whose CPU it takes
                    while one := schedule.next(self.executor.width, self.executor.queues):
                        self.executor.start(self._task(one.cell, one.cell.key))
                    if not schedule.taken:
                        return  # all GPUs were lost
                    for task, place in self.executor.running():
                        self.board.by_key[task.key].begin(place)
                    live.show()
                    self._tell()  # beside the next cells, which prepare meanwhile
                    for ended in self.executor.wait(LOOK_S):
                        schedule.ended()
                        self._take(ended, live, schedule)
            except Killed as killed:
                self.signals.stopping = True
                for ended in self.executor.stop(killed.signum):
                    self._take(ended, live)
                raise

    def _measure_yardstick(self, yardstick: Yardstick, live: Live) -> None:
        """Measure the yardstick before anything else is measured, and say so if the sessions differ."""
        self.executor.start(self._task(yardstick.cell, yardstick.key))
        while not (ended := self.executor.wait(LOOK_S)):
            live.show()
        for one in ended:
            self._take(one, live)
        print_error(f"{'Warning: ' if yardstick.disagrees or yardstick.fault else ''}{yardstick.text}")

    def _task(self, cell: Cell, key: str) -> Task:
        target = {**self.parent.target, "run_id": None}
        return Task(cell, key, self.logdir, self.board.sweep_id, record_id(self.parent), target)

    def _take(self, ended: Ended, live: Live, schedule: Schedule | None = None) -> None:
        """Note what became of a cell, and show it. If its GPU was lost, it goes elsewhere, once."""
        run = Measured.of_record(ended.record) if ended.record else None
        if self.board.yardstick and ended.task.key == self.board.yardstick.key:
            self.board.yardstick.end(run, ended.reason or ended.lost)
        else:
            one = self.board.by_key[ended.task.key]
            one.end(run, ended.reason or ended.lost)
            live.tell(one)
            if ended.lost:
                again = bool(self.executor.width and schedule and schedule.once_more(one))
                print_error(f"Warning: {ended.lost}{f'; {one.cell.name} goes to another GPU' if again else ''}")
                if again:
                    one.state, one.run, one.reason = "missing", None, None
        self.untold.append(ended)
        if ended.record:
            self.unpublished.append(ended.record)

    def _tell(self) -> None:
        """Publish what has ended since, and the table."""
        ended, self.untold = self.untold, []
        if not ended:
            return
        self._publish([one.record for one in ended if one.record])
        left = self.board.seconds_left(self.executor.width)
        show_in(self.parent, self.board, f"about {in_minutes(left)} left" if left else None)
        self.publishing.update(self.parent)

    def _publish(self, records: Sequence[Journal]) -> None:
        for record in records:
            run_id = self.publishing.publish_child(record, self.parent, self.alive_s)
            if run_id is None and self.publishing.lost:
                return  # the others wait for the end
            if run_id is not None:
                self.unpublished.remove(record)
                one = self.board.by_key.get(record.tags[names.TAG_CELL.name])
                if one and one.run and one.run.record == record.path:
                    one.run = replace(one.run, run_id=run_id)

    # The end

    def _end(self, killed: Killed | None) -> int:
        """Publish what is not yet, end the parent, print, and return the exit code."""
        self.signals.stopping = True  # from here on, a signal does not interrupt publishing
        self._publish(list(self.unpublished))
        failed, left = self.board.count(*GIVEN_UP), self.board.count("missing")
        status, message, code = "ok", None, 0
        if killed:
            status, message, code = "killed", f"stopped by {killed}", killed.exit_code
        elif failed:
            message = f"{failed} of {len(self.board.states)} runs failed; the same command measures them again"
            status, code = "error", RunFailed.exit_code
        if left and not killed:
            message = f"all GPUs were lost; {failed} runs failed and {left} are left; the same command goes on"
            status, code = "error", RunFailed.exit_code
        self.board.remarks = [*self.board.remarks, *self._slower()]
        show_in(self.parent, self.board)
        if not killed and (why := write_report(self.parent, self.board, self.publishing.uri)):
            print_error(f"Warning: the report is not complete: {why}")
        end_parent(self.parent, status, message, code)
        told = self._publish_parent(killed)
        print_text(self.board.text())
        for line in told:
            print_text(line)
        if message:
            print_error(f"Stopped by {killed}; the same command goes on" if killed else f"Error: {message}")
        if count := len(self.unpublished) + (not self.parent.published):
            later, are = sync_command(self.logdir, self.publishing.uri), "is" if count == 1 else "are"
            print_error(f"Error: {counted(count, 'record')} {are} not published; publish later with: {later}")
            return code or PublishFailed.exit_code
        return code

    def _slower(self) -> list[str]:
        """The GPUs that were slower than their siblings, by all runs of this sweep that this disk has."""
        numbers = {gpu.uuid.removeprefix(PREFIX): gpu.number for gpu in self.executor.gpus}
        local = local_records(self.logdir, self.board.sweep_id)
        return slower_notes(runs_of(local.children, None, False), numbers)

    def _publish_parent(self, killed: Killed | None) -> list[str]:
        """Publish the parent. Returns what to tell about where it is."""
        try:
            published = self.publishing.publish(self.parent)
        except (PublishFailed, DamagedRecord) as error:
            show_error(error)
            return []
        if killed:
            self.publishing.keep_killed()
        self._tell_resumption(published.run_id, self.parent.run_name, published.experiment_id, killed)
        for note in published.notes:
            print_error(note)
        place = f"{self.parent.path}, MLflow run {published.run_id} in {published.tracking_uri}"
        return [f"  recorded in {place}", *ui_lines(published, self.config.kind)]

    def _tell_resumption(self, run_id: str, name: str, experiment_id: str, killed: Killed | None) -> None:
        url = link_to(self.publishing.uri, experiment_id, run_id)
        parent = {"run_id": run_id, "name": name, "url": url}
        try:
            self.publishing.end_resumption(parent, self.board.markdown(), killed)
        except (PublishFailed, BadInput) as error:
            print_error(f"Warning: the run that `mlflow run` made could not be told: {error}")

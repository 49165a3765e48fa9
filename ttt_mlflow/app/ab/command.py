"""Carries out ``ttt-mlflow ab``: checks both sides, measures them in turns, and answers once."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.status import Status

from ttt_mlflow.app.ab.parent import TOO_LITTLE, end_parent, mark_children, publish_all, start_parent
from ttt_mlflow.app.ab.sides import Side, find_source, own_folders
from ttt_mlflow.app.ab.turns import (
    BASELINE,
    CANDIDATE,
    ORDER,
    Limits,
    Rounds,
    measure_in_turns,
    run_once,
    words_of_a_run,
    words_of_a_warm_run,
)
from ttt_mlflow.app.compare import gate_of, rendered, report_of
from ttt_mlflow.app.output import guard_output, print_error, print_text, show_error
from ttt_mlflow.app.publishing import Destination, Publishing
from ttt_mlflow.app.signals import SignalHandler
from ttt_mlflow.config import CompareConfig
from ttt_mlflow.errors import NOTHING_MEASURED, BadInput, Killed, PublishFailed
from ttt_mlflow.measurement.comparison import Comparison, compare
from ttt_mlflow.names import TAG_VERDICT
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.comparison import ComparisonOptions
from ttt_mlflow.report.comparison_text import Report, change_text
from ttt_mlflow.report.text import printable

LONG_ROUND_S = 60.0  # a longer round is named, with the options that make it shorter
LOOK_AGAIN_S = 1.0  # between two updates of the live line


@dataclass(frozen=True)
class AskedAb:
    """``ab`` as it was asked for. options: of both sides; side_options: of one side, by its name.

    config: both sides, and what the comparison decides.
    """

    config: CompareConfig
    options: tuple[str, ...]
    side_options: dict[str, tuple[str, ...]]
    max_minutes: float
    destination: Destination

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        """The options of each side. Of an option that is given twice, the last counts: that of the side."""
        return {name: (*self.options, *self.side_options.get(name, ())) for name in (BASELINE, CANDIDATE)}


def run_ab(parse: Callable[[], AskedAb], check: Callable[[Sequence[str]], object]) -> int:
    """Carry out ``ab`` and return the exit code. check: raises BadInput for options that ``run`` does not take.

    Raises BadInput, before anything is measured or if a side does not run, and Killed before the first complete run.
    """
    with SignalHandler() as signals:
        guard_output()
        try:
            return _Ab(parse(), check, signals).carry_out()
        except Killed as killed:
            killed.during = NOTHING_MEASURED
            raise


class _Ab:
    """One comparison, and what its steps share."""

    def __init__(self, asked: AskedAb, check: Callable[[Sequence[str]], object], signals: SignalHandler) -> None:
        from ttt_mlflow.tracking.store import check_tracking, resolve_destination

        self.asked, self.signals = asked, signals
        asked.destination.limits()  # refused now, and not after all runs
        self.words = {name: words_of_a_run(words) for name, words in asked.words.items()}
        for name, words in self.words.items():
            _check_options(name, words, check)
        sides = {BASELINE: asked.config.baseline, CANDIDATE: asked.config.candidate}
        self.sources = [find_source(name, texts[0]) for name, texts in sides.items()]
        self.logdir = Path(asked.destination.logdir).absolute()
        self.uri = resolve_destination(asked.destination.tracking_uri)
        if reason := check_tracking(self.uri):
            print_error(f"Warning: tracking_uri={without_secrets(self.uri)}: cannot be reached ({reason})")
            print_error(f"Warning: the runs are kept in {self.logdir}; `{self._sync_command()}` publishes them later")
        self.rounds = Rounds()
        self.console = Console(stderr=True)
        self.began = time.monotonic()

    def carry_out(self) -> int:
        killed: Killed | None = None
        parent: Journal | None = None
        for line in self._header():
            self._say(line)
        with own_folders(self.sources, self.words) as sides:
            try:
                parent = start_parent(self.logdir, self.asked.config)
                self._note_target(parent)
                self._warm(sides)
                self._measure({side.name: side for side in sides})
            except Killed as stopped:
                if not self.rounds.count:
                    _discard(parent)
                    raise
                killed = stopped
            except BaseException:  # raised again: only the record of a comparison that was not made is removed
                _discard(parent)
                if self.rounds.count:
                    self._say(f"The runs that were measured before are kept in {self.logdir}; nothing was published.")
                raise
            finally:
                self.signals.stopping = True  # from here on, a signal does not interrupt cleaning and publishing
        assert parent
        mark_children(parent, sides, self.rounds.runs)
        report = self._report() if self.rounds.comparable else None
        end_parent(parent, report, str(killed) if killed else None)
        published = self._publish(parent)
        self._show(report, parent, killed)
        if killed:
            return killed.exit_code
        assert report
        assert report.decision
        return report.decision.exit_code or (0 if published else PublishFailed.exit_code)

    def _warm(self, sides: Sequence[Side]) -> None:
        for side in sides:
            with self._status(f"warming the {side.name}, not counted") as look:
                began = time.monotonic()
                run_once(side, words_of_a_warm_run(side.words), None, look)
            self._say(f"{side.name}: warmed in {time.monotonic() - began:.0f} s, not counted")

    def _measure(self, sides: dict[str, Side]) -> None:
        self.began = time.monotonic()
        limits = Limits(self.asked.config.resolution, 60 * self.asked.max_minutes)

        def measure(name: str) -> Journal:
            with self._status(lambda: self._live(name)) as look:
                record = run_once(sides[name], sides[name].words, self.logdir, look)
            assert record
            self._note_target(record)
            return record

        measure_in_turns(measure, self._interval, limits, self._tell, self.rounds)

    def _interval(self, baseline: Sequence[Journal], candidate: Sequence[Journal]) -> Comparison | None:
        """The comparison so far, of the runs that the answer will rest on; None as long as a side has none."""
        sides = [[LocalRun(record) for record in side] for side in (baseline, candidate)]
        values = [[throughputs(run) for run in side if self._counts(run)] for side in sides]
        return compare(*values, resolution_pct=self.asked.config.resolution) if all(values) else None

    def _counts(self, run: LocalRun) -> bool:
        return bool(self.asked.config.include_invalid) or run.tags.get(TAG_VERDICT.name) != "invalid"

    def _report(self) -> Report:
        config = self.asked.config
        sides = [
            (f"{source.asked}, {source}; run {shlex.join(self.words[source.name])}", self._runs(source.name))
            for source in self.sources
        ]
        options = ComparisonOptions(config.resolution, bool(config.strict), bool(config.include_invalid), one_pair=True)
        return report_of(sides, options, gate_of(config))

    def _runs(self, name: str) -> list[RecordedRun]:
        return [LocalRun(record) for record in self.rounds.runs[name]]

    def _publish(self, parent: Journal) -> bool:
        try:
            with Publishing(self.asked.destination, parent=None) as publishing:
                publishing.start()
                place = publish_all(parent, self.rounds.runs, publishing)
        except (BadInput, PublishFailed) as error:  # bad input: the server refuses, but the comparison is made
            show_error(error)
            self._say(f"The comparison and its runs are kept; `{self._sync_command()}` publishes them.")
            return False
        self._say(f"MLflow run {place.run_id} in {place.tracking_uri}, with {self.rounds.count} child runs")
        if place.run_url:
            self._say(f"MLflow UI: {place.run_url}")
        return True

    def _note_target(self, record: Journal) -> None:
        from ttt_mlflow.tracking.publish import note_target

        note_target(record, self.uri, None, self.asked.destination.experiment_name)

    # What a person reads

    def _header(self) -> list[str]:
        said = [f"{source.name}: {source.asked}, {source}" for source in self.sources]
        baseline, candidate = (shlex.join(self.words[name]) for name in (BASELINE, CANDIDATE))
        if baseline == candidate:
            return [*said, f"options of each run: {baseline}"]
        return [*said, f"options of the baseline: {baseline}", f"options of the candidate: {candidate}"]

    def _live(self, name: str) -> str:
        """The line that is shown while a run of the side ``name`` is measured."""
        round_number, run = divmod(self.rounds.count, len(ORDER))
        left = max(0.0, 60 * self.asked.max_minutes - (time.monotonic() - self.began))
        parts = [f"round {round_number + 1}, run {run + 1} of {len(ORDER)}: {name}", _change(self.rounds.interval)]
        return "; ".join([*filter(None, parts), f"at most {left / 60:.0f} min left"])

    def _tell(self, rounds: Rounds) -> None:
        """Print the throughputs of a round that is complete."""
        if rounds.count != len(ORDER) * len(rounds.seconds):
            return
        half = len(ORDER) // 2
        medians = {
            name: ", ".join(f"{median(throughputs(LocalRun(record))):,.0f}" for record in records[-half:])
            for name, records in rounds.runs.items()
        }
        shown = "; ".join(f"{name} {values}" for name, values in medians.items())
        change = _change(rounds.interval) or "no confidence interval yet"
        self._say(f"round {len(rounds.seconds)}, {rounds.seconds[-1]:.0f} s: {shown} tokens/s; {change}")
        if len(rounds.seconds) == 1 and rounds.seconds[0] > LONG_ROUND_S:
            self._say(
                f"Note: a round takes over {LONG_ROUND_S:.0f} s; --use-compile false or a smaller --genlen shortens it"
            )
        if rounds.ended == "time":
            self._say(
                f"Note: the time is used up (--max-minutes {self.asked.max_minutes:g}), and the confidence interval is "
                f"wider than ±{self.asked.config.resolution:g} %"
            )

    def _show(self, report: Report | None, parent: Journal, killed: Killed | None) -> None:
        if killed:
            print_error(f"Stopped by {killed} after {self.rounds.count} runs, of which this is the comparison:")
        if report is None:
            print_error(TOO_LITTLE)
        else:
            print_text(rendered(report, self.asked.config.format, gate_of(self.asked.config)))
        self._say(f"Record: {parent.path}")

    def _sync_command(self) -> str:
        from ttt_mlflow.tracking.later import sync_command

        return sync_command(self.logdir, self.uri)

    def _say(self, text: str) -> None:
        """Print to standard error, so that standard output has the answer alone."""
        self.console.print(printable(without_secrets(text), "\n"), markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _status(self, text: str | Callable[[], str]) -> Iterator[Callable[[], None]]:
        """Show ``text`` on a terminal until the block ends. What it yields brings the text up to date."""
        said = text if callable(text) else lambda: text
        if not sys.stderr.isatty():
            yield lambda: None
            return
        last = time.monotonic()
        with Status(said(), console=self.console) as status:

            def look() -> None:
                nonlocal last
                if time.monotonic() - last >= LOOK_AGAIN_S:
                    last = time.monotonic()
                    status.update(said())

            yield look


def _check_options(name: str, words: Sequence[str], check: Callable[[Sequence[str]], object]) -> None:
    """Raise BadInput, which names the side, for options that ``run`` does not take."""
    try:
        check(words)
    except BadInput as error:
        raise BadInput("\n".join(f"{name}: {line}" for line in str(error).splitlines())) from None


def _change(found: Comparison | None) -> str | None:
    return None if found is None or found.low_pct is None else f"change {change_text(found)}"


def _discard(record: Journal | None) -> None:
    if record:
        shutil.rmtree(record.path, ignore_errors=True)

"""Measures two sides in turns, each run in a process of its own, until the answer is narrow enough."""

import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ttt_mlflow.app.ab.sides import PATIENCE_S, Side
from ttt_mlflow.errors import BadInput, PublishFailed, end_if_asked
from ttt_mlflow.measurement.comparison import Comparison
from ttt_mlflow.record.finding import Found, find_journals
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.tracking.store import NO_STORE

BASELINE, CANDIDATE = "baseline", "candidate"
ORDER = (BASELINE, CANDIDATE, CANDIDATE, BASELINE)  # a drift of the GPU that is linear falls on both sides alike
ROUNDS_LEAST = 2  # with one round, a side has two runs, which say little about the variance from run to run
LOOK_S = 0.2  # between two looks at a process
# Options of each run; those of the user come after them and count. A run is short, because repetitions say more than a
# long run. It is then often not precise in itself, which the verdict of a run alone would call invalid.
SHORT_RUN = {"max_seconds": "4", "thresholds": "half_width_pct=100"}
# Options of the run that only fills caches. The last ones are added where the user asked for a profile.
WARM_RUN = {"warmup": "0", "repeats": "1"}
NO_PROFILE = {"profile": "none", "nsys_args": "auto", "nsys_export": "none", "retry_invalid": "0"}
MEASURED = (0, PublishFailed.exit_code)


@dataclass(frozen=True)
class Limits:
    """When the rounds end. resolution_pct: half-width of the confidence interval. max_s: seconds for all rounds."""

    resolution_pct: float
    max_s: float


@dataclass
class Rounds:
    """What was measured so far. It is filled in place, so that an interruption loses no complete run.

    seconds: of each complete round. ended: why the rounds ended: resolution or time; None: they were interrupted.
    """

    runs: dict[str, list[Journal]] = field(default_factory=lambda: {BASELINE: [], CANDIDATE: []})
    seconds: list[float] = field(default_factory=list)
    interval: Comparison | None = None
    ended: str | None = None

    @property
    def count(self) -> int:
        """Complete runs of both sides."""
        return sum(map(len, self.runs.values()))

    @property
    def comparable(self) -> bool:
        """Whether each side has a complete run."""
        return all(self.runs.values())


# Compares the complete runs; None as long as they are too few.
Compare = Callable[[Sequence[Journal], Sequence[Journal]], Comparison | None]
Measure = Callable[[str], Journal]
Tell = Callable[[Rounds], None]


def measure_in_turns(measure: Measure, compare: Compare, limits: Limits, tell: Tell, into: Rounds) -> None:
    """Measure round after round until the confidence interval is narrow, or another round would end too late.

    measure: measures the side of that name once. tell: called after each run and each round. ROUNDS_LEAST rounds are
    always made. An exception of ``measure`` is passed on; ``into`` keeps the runs before it.
    """
    began = time.monotonic()
    while into.ended is None:
        round_began = time.monotonic()
        for side in ORDER:
            into.runs[side].append(measure(side))
            tell(into)
        into.seconds.append(time.monotonic() - round_began)
        into.interval = compare(into.runs[BASELINE], into.runs[CANDIDATE])
        if len(into.seconds) >= ROUNDS_LEAST:
            if narrow(into.interval, limits.resolution_pct):
                into.ended = "resolution"
            elif time.monotonic() - began + max(into.seconds) > limits.max_s:
                into.ended = "time"
        tell(into)


def narrow(interval: Comparison | None, resolution_pct: float) -> bool:
    """Whether the confidence interval is at most ± ``resolution_pct`` wide, on the log scale as the answer's rule."""
    if interval is None or interval.low_pct is None or interval.high_pct is None or interval.low_pct <= -100:
        return False
    width = math.log1p(interval.high_pct / 100) - math.log1p(interval.low_pct / 100)
    return width <= 2 * math.log1p(resolution_pct / 100)


def given_options(words: Sequence[str]) -> set[str]:
    """The names of the options in ``words``, in the spelling of parameters: ``--inner-net=x`` gives ``inner_net``."""
    return {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}


def words_of_a_run(words: Sequence[str]) -> tuple[str, ...]:
    """The options of a measured run: those that make it short, then those given. Of two values, the last counts."""
    return (*_as_words(SHORT_RUN), *words)


def words_of_a_warm_run(words: Sequence[str]) -> tuple[str, ...]:
    """The options of the run that fills the caches. It compiles and loads what the measured runs need."""
    given = given_options(words)
    return (*words, *_as_words({**WARM_RUN, **{name: NO_PROFILE[name] for name in NO_PROFILE if name in given}}))


def _as_words(options: dict[str, str]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def run_once(side: Side, words: Sequence[str], logdir: Path | None, look: Callable[[], None]) -> Journal | None:
    """Run ``side`` once in a process, and move its record to ``logdir``; with None, the record is dropped.

    look: called while the process runs. Raises BadInput with the side, the command and the reason, if the process fails
    or leaves no complete run. If an exception ends this function, its process is stopped before.
    """
    with tempfile.TemporaryDirectory(prefix="run-", dir=side.folder.parent) as folder:
        work = Path(folder)
        command = [sys.executable, "-m", "ttt_mlflow", "run", *words, f"--logdir={work / 'records'}"]
        code = _run_process(command, {**side.environment(), "MLFLOW_TRACKING_URI": NO_STORE}, work / "output", look)
        found = find_journals(work / "records") if (work / "records").is_dir() else Found()
        journals = found.journals
        fault = _fault(code, found, work / "output")
        if fault:
            shown = shlex.join(["python", *command[1:-1]])
            raise BadInput(f"{side.name}={side.source.asked}: `{shown}` {fault}")
        if logdir is None:
            return None
        logdir.mkdir(parents=True, exist_ok=True)
        return Journal.open(shutil.move(journals[0].path, logdir / journals[0].journal_id))


def _fault(code: int, found: Found, output: Path) -> str | None:
    """Why the process did not measure, in one line; None if it did."""
    if found.damaged:
        return f"left a damaged record: {found.damaged[0]}"
    journals = found.journals
    message = journals[0].status.get("message") if len(journals) == 1 else None
    lines = output.read_text(errors="replace").strip().splitlines()
    last = message or (lines[-1].strip() if lines else "no output")
    if code not in MEASURED:
        ended = f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"{ended}: {last}"
    if len(journals) != 1:
        return f"left {len(journals)} records instead of one: {last}"
    run = LocalRun(journals[0])
    if run.status != "ok":
        return f"left a record with status {run.status}: {last}"
    try:
        throughputs(run)
    except BadInput as error:
        return f"left a record that cannot be compared: {error}"
    return None


def _run_process(command: Sequence[str], environment: dict[str, str], output: Path, look: Callable[[], None]) -> int:
    """Run ``command`` to its end, with its output in a file, and return its exit code."""
    with output.open("wb") as file:
        # a session of its own: Ctrl-C in the terminal reaches this process alone, which then stops the other
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            while (code := _code_after(process, LOOK_S)) is None:
                end_if_asked()
                look()
            return code
        finally:
            _stop(process)


def _code_after(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the process and what it started, if it still runs: by SIGTERM, and after PATIENCE_S by SIGKILL."""
    if process.poll() is not None:
        return
    _signal_group(process, signal.SIGTERM)
    if _code_after(process, PATIENCE_S) is None:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signum)

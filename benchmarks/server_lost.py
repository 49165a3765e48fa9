"""Does a tracking server that is lost in the middle of a measurement change what is measured?

``python -m benchmarks.server_lost OUTPUT -- --batch 1024`` makes runs against a tracking server on this host, which is
killed while the run measures, and runs against a local SQLite file, in turns: lost, file, file, lost, lost, file.
Whether the measurement has begun is read from the run's log. Options after ``--`` go to `ttt-mlflow run`.

It writes OUTPUT/server_lost.txt; the records are in OUTPUT/runs. Exit code 0 if `compare` finds no significant
difference or the confidence interval of the ratio lies within the limit, 1 if not, 2 if it could not be measured.
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.runs import ROOT, SHOWN_LINES, facts_of
from ttt_mlflow.app.compare import rendered, report_of
from ttt_mlflow.errors import PublishFailed, RunFailed, TTTError
from ttt_mlflow.measurement.comparison import Comparison
from ttt_mlflow.names import ARTIFACT_LOG
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.report.comparison import ComparisonOptions
from ttt_mlflow.report.gate import Gate

LOST, FILE = "lost", "file"
TURNS = (LOST, FILE, FILE, LOST)
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}  # a server that is gone, and one that hangs
LIMIT_PCT = 0.5
BEGINS, ENDS = "timed pass 1", "timed passes ended"  # in the log of a run: the first timed pass, and after the last
START_SECONDS = 180.0  # a server with a new store, on a slow disk
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class How:
    """What was asked for. after_s: from the begin of the measured section. options: for `ttt-mlflow run`."""

    output: Path
    after_s: float
    by: str
    options: tuple[str, ...]


def measured(how: How, number: int, kind: str) -> Journal:
    """Make one run of a kind. Raises RunFailed if it fails, or if its server was lost too late."""
    folder = how.output / "runs" / f"{number}-{kind}"
    if kind == FILE:
        store = how.output / "file"
        store.mkdir(exist_ok=True)
        return _run(how, folder, f"sqlite:///{store.absolute()}/mlflow.db", None)
    with tracking_server(how.output / "server") as (uri, server):
        return _run(how, folder, uri, lambda: os.killpg(server.pid, SIGNALS[how.by]))


def _run(how: How, folder: Path, uri: str, lose: Callable[[], None] | None) -> Journal:
    """A run in a process of its own. lose: what is to happen in the middle of its measured section."""
    folder.mkdir(parents=True)
    printed = folder.with_suffix(".txt")
    command = [sys.executable, "-m", "ttt_mlflow", "run", f"--logdir={folder}", *how.options]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with printed.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)
    try:
        if lose:
            _wait(lambda: BEGINS in _log(folder), process, printed)
            time.sleep(how.after_s)
            lose()
            if ENDS in _log(folder):
                raise RunFailed(
                    f"--after {how.after_s:g}: the run had measured already when its server was lost; "
                    "give fewer seconds, or options for a longer measurement"
                )
        code = process.wait()
    finally:
        process.kill()  # nothing, unless the block above was left early
        process.wait()
    # a run that has lost its server keeps its record for `sync` and ends with this code
    if code not in (0, PublishFailed.exit_code) or (code and not lose):
        raise _failed(code, printed)
    (status,) = folder.glob("*/status.json")
    return Journal.open(status.parent)


def _log(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob(f"*/artifacts/{ARTIFACT_LOG.path}"))


def _wait(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", printed: Path) -> None:
    while not condition():
        if process.poll() is not None:
            raise _failed(process.returncode, printed)
        time.sleep(LOOK_SECONDS)


def _failed(code: int | None, printed: Path) -> RunFailed:
    shown = "\n".join(printed.read_text().strip().splitlines()[-SHOWN_LINES:])
    return RunFailed(f"the run ended with code {code}:\n{shown}")


@contextmanager
def tracking_server(folder: Path) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """A tracking server on the loopback, with its store in ``folder``, in a process group of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder.absolute()}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder.absolute()}/artifacts", "--serve-artifacts"]
    printed = folder / "server.txt"
    with printed.open("w") as file:
        server = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        _wait(lambda: _answers(port) or time.monotonic() > deadline, server, printed)
        if not _answers(port):
            raise RunFailed(f"the tracking server did not answer within {START_SECONDS:g} s; {printed} has its output")
        yield f"http://127.0.0.1:{port}", server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(port: int) -> bool:
    try:
        # not through a proxy that the environment names
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except OSError:
        return False
    return True


def compared(journals: dict[str, list[Journal]], include_invalid: bool) -> tuple[str, Comparison | None, str]:
    """The text of `ttt-mlflow compare` of both kinds, the comparison of the only pair, and its answer."""
    sides = [(kind, [LocalRun(journal) for journal in journals[kind]]) for kind in (FILE, LOST)]
    gate = Gate(None, False, False)
    report = report_of(sides, ComparisonOptions(LIMIT_PCT, include_invalid=include_invalid, one_pair=True), gate)
    (pair,) = report.compared.pairs
    return rendered(report, "text", gate), pair.comparison, pair.answer


def verdict(found: Comparison | None, answer: str) -> tuple[bool, str]:
    """Whether the requirement is met, and the line that says so."""
    if found is None or found.low_pct is None or found.high_pct is None:
        return False, f"Not met: there is no confidence interval ({answer})"
    inside = found.low_pct >= -LIMIT_PCT and found.high_pct <= LIMIT_PCT
    met = inside or answer == "no significant difference"
    where = "lies within" if inside else "does not lie within"
    interval = f"[{found.low_pct:+.3f}, {found.high_pct:+.3f}] %"
    said = f"server lost against file: {found.change_pct:+.3f} % {interval}, which {where} ±{LIMIT_PCT:g} %; {answer}"
    return met, f"{'Met' if met else 'Not met'}: {said}"


def main(words: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if words is None else words)
    end = given.index("--") if "--" in given else len(given)
    description = "\n\n".join(__doc__.split("\n\n")[:2])
    parser = argparse.ArgumentParser(
        "python -m benchmarks.server_lost",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] OUTPUT [-- OPTIONS OF ttt-mlflow run]",
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="new folder for the records and server_lost.txt")
    parser.add_argument("--runs", type=int, default=3, help="of each kind [3]")
    parser.add_argument("--after", type=float, default=2.0, help="seconds of measuring before the server is lost [2]")
    parser.add_argument("--by", choices=sorted(SIGNALS), default="kill", help="stop: the server hangs [kill]")
    parser.add_argument("--include-invalid", action="store_true", help="compare invalid runs too, as on a CPU")
    arguments = parser.parse_args(given[:end])
    if arguments.runs < 2 or arguments.after < 0:
        parser.error("--runs takes a number from 2, --after a number from 0")
    how = How(arguments.output, arguments.after, arguments.by, tuple(given[end + 1 :]))
    lines = [f"$ python -m benchmarks.server_lost {shlex.join(given)}"]

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    journals: dict[str, list[Journal]] = {LOST: [], FILE: []}
    try:
        (how.output / "runs").mkdir(parents=True)
        for number in range(2 * arguments.runs):
            kind = TURNS[number % len(TURNS)]
            journal = measured(how, number + 1, kind)
            journals[kind].append(journal)
            if number == 0:
                say(", ".join(f"{name} {fact}" for name, fact in facts_of(journal).items()))
            rate = journal.metrics.get("decode_tokens_per_s") or journal.metrics.get("prefill_tokens_per_s")
            passes, published = journal.metrics.get("measured_passes"), bool(journal.published)
            say(
                f"run {number + 1} of {2 * arguments.runs}, {kind}: {rate:,.0f} tokens/s, {passes:.0f} passes, "
                f"{journal.tags.get('ttt.verdict')}{'' if published else ', not published'}"
            )
        text, found, answer = compared(journals, arguments.include_invalid)
    except (TTTError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    say(text)
    met, line = verdict(found, answer)
    say(line)
    (how.output / "server_lost.txt").write_text("\n".join([*lines, ""]))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

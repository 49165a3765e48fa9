"""Measures each cell in a process of its own. Each GPU of this host takes the next one, one at a time.

A process is pinned to its GPU's share of the host (:mod:`ttt_mlflow.telemetry.host_shares`). The compilers' caches are
shared by all: their files are written whole, so that processes that compile the same kernel at once do not disturb each
other, and what Inductor has tuned on one GPU holds for all.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from ttt_mlflow.app.fork_server import Forked, ForkServer
from ttt_mlflow.app.output import print_error
from ttt_mlflow.app.sweep.executors import CPU, Ended
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.telemetry.gpus import Gpu, visible_gpus
from ttt_mlflow.telemetry.host_shares import HostShare, host_shares

if TYPE_CHECKING:  # they import PyTorch
    from ttt_mlflow.app.sweep.check import Checked
    from ttt_mlflow.app.sweep.grid import Cell
    from ttt_mlflow.app.sweep.task import Task

PATIENCE_S = 30.0  # for a process that was asked to stop, until it is killed
LOOK_S = 0.2  # between two looks at the processes
CELL = "ttt_mlflow.app.sweep.cell_process"
LAST_WORDS = 300  # characters of the last line of a process that left no reason
# Threads of PyTorch's operators on the host, and processes with which Inductor compiles. Libraries read them once.
THREADS, COMPILE_THREADS = "OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"
MOST_COMPILE = 32  # Inductor's own limit
MEASURED = ("ok", "oom")


def chosen_gpus(asked: Sequence[str] | None, find: Callable[[], list[Gpu]] = visible_gpus) -> list[Gpu]:
    """The GPUs of this host that take part. Raises BadInput for a number that none of them has, or a GPU given twice.

    asked: their numbers, as CUDA counts those that CUDA_VISIBLE_DEVICES leaves; None: all of them.
    """
    gpus = find()
    if asked is None:
        return gpus
    by_number = {str(gpu.number): gpu for gpu in gpus}
    shown = f"this host has {', '.join(map(str, gpus))}" if gpus else "this host has none that CUDA can use"
    for number in asked:
        if number not in by_number:
            raise BadInput(f"gpus={','.join(asked)}: no such GPU as {number}; {shown}")
    if len(set(asked)) < len(asked):
        raise BadInput(f"gpus={','.join(asked)}: a GPU is given twice; it measures one run at a time")
    return [by_number[number] for number in asked]


@dataclass
class _Running:
    """A process that measures, what it answered so far, and what it printed."""

    task: "Task"
    process: subprocess.Popen[bytes] | Forked
    said: IO[bytes]
    answered: bytes = b""

    def read(self) -> None:
        assert self.process.stdout
        self.answered += self.process.stdout.read() or b""

    def ended(self, place: str) -> Ended:
        """What came of it. The process has ended."""
        self.read()
        answers: dict[str, str] = {}
        for line in self.answered.splitlines():
            with suppress(ValueError):  # a line that a signal cut
                answers |= json.loads(line)
        record, reason = None, answers.get("reason")
        if "record" in answers and Path(answers["record"]).is_dir():
            record = Journal.open(answers["record"])
            record.close_abandoned()
        code = self.process.wait()
        if record is None and reason is None:
            how = f"stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            reason = f"its process was {how}" if code < 0 else f"its process {how}"
            reason = f"{reason}: {self._last_words()}"
        for stream in (self.said, self.process.stdin, self.process.stdout):
            with suppress(OSError):
                assert stream
                stream.close()
        return Ended(self.task, place, record, reason)

    def _last_words(self) -> str:
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return without_secrets(said)[:LAST_WORDS] or "it said nothing"


def _is_measured(ended: Ended) -> bool:
    return ended.record is not None and ended.record.status["status"] in MEASURED


class ProcessExecutor:
    """See :class:`ttt_mlflow.app.sweep.executors.Executor`. gpus: those that take part; none: this host's CPU.

    forks: whether cells are forks of a process that has imported everything, which pays for several of them.
    """

    queues = False

    def __init__(self, gpus: Sequence[Gpu], forks: bool = True) -> None:
        self._gpus = {str(gpu): gpu for gpu in gpus}
        self._places: list[str] = list(self._gpus) or [CPU]  # without those that were lost
        self._running: dict[str, _Running] = {}
        self._forks = forks
        self._server: ForkServer | None = None

    @property
    def width(self) -> int:
        return len(self._places)

    @property
    def gpu_names(self) -> Sequence[str]:
        return list(dict.fromkeys(gpu.name for gpu in self._gpus.values())) or [CPU]

    @property
    def gpus(self) -> Sequence[Gpu]:
        return list(self._gpus.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGTERM)
        if self._server:
            self._server.close()

    def prepare(self) -> None:
        if self._forks and self._server is None:
            self._server = ForkServer(self._environment(self._places[0]))

    def check(self, cells: "Sequence[Cell]") -> "list[Checked]":
        from ttt_mlflow.app.sweep.check import check_run

        total = min((gpu.total_bytes for gpu in self._gpus.values()), default=None)
        return [check_run(cell.config, cell.asks_largest, total) for cell in cells]

    @cached_property
    def shares(self) -> Mapping[str, HostShare]:
        """The share of the host of each place that has one. A number of threads that the user has chosen is kept."""
        found = host_shares() if self._gpus else {}
        given = os.environ.get(THREADS, "")
        threads = int(given) if given.isascii() and given.isdecimal() and int(given) else None
        shares = {place: found[gpu.uuid] for place, gpu in self._gpus.items() if gpu.uuid in found}
        return {place: replace(share, threads=threads or share.threads) for place, share in shares.items()}

    def start(self, task: "Task", on: str | None = None) -> None:
        """on: the place that takes it, which must be free; None: the first that is."""
        place = on or next(place for place in self._places if place not in self._running)
        said = tempfile.TemporaryFile()  # noqa: SIM115 (it is open as long as the process)
        process = self._new_process(self._environment(place), said)
        self._running[place] = _Running(task, process, said)
        assert process.stdin
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        share = self.shares.get(place)
        asked = {**task.as_json(), "share": share.as_json() if share else None}
        with suppress(BrokenPipeError):  # :meth:`wait` tells why it has ended
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()

    def _new_process(self, environment: Mapping[str, str], said: IO[bytes]) -> subprocess.Popen[bytes] | Forked:
        """A fork of the process that has imported everything, or a process that imports it for itself.

        Each has a session of its own: Ctrl-C in the terminal reaches the sweep alone, which then stops its processes.
        """
        if self._forks:
            self._server = self._server or ForkServer(environment)
            is_first = not self._server.is_ready
            fault = self._server.wait_until_ready()
            if is_first and (left_out := self._server.left_out):
                print_error(f"Note: each cell imports some of it by itself, which takes seconds: {'; '.join(left_out)}")
            if fault is None:
                with suppress(OSError):  # the server has ended
                    return self._server.start(CELL, environment, said)
            why = fault or "the process from which they were forked has ended"
            print_error(f"Note: each cell imports everything by itself, which takes seconds: {why}")
            self._forks = False
        return subprocess.Popen(
            [sys.executable, "-P", "-m", CELL],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )

    def running(self) -> "list[tuple[Task, str]]":
        return [(one.task, place) for place, one in self._running.items()]

    def wait(self, seconds: float) -> list[Ended]:
        deadline = time.monotonic() + seconds
        while not (ended := self._ended_places()) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        return self._taken(ended)

    def stop(self, signum: int) -> list[Ended]:
        for one in self._running.values():
            if one.process.poll() is None:
                one.process.send_signal(signum)
        for one in self._running.values():
            try:
                one.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):  # with all that it started
                    os.killpg(one.process.pid, signal.SIGKILL)
                one.process.wait()
        return self._taken(list(self._running))

    def _ended_places(self) -> list[str]:
        return [place for place, one in self._running.items() if one.process.poll() is not None]

    def _taken(self, places: Sequence[str]) -> list[Ended]:
        """What came of the processes at ``places``, which have ended and free their places, unless those are lost."""
        found = []
        for place in places:
            ended = self._running.pop(place).ended(place)
            if not _is_measured(ended) and (lost := self._why_lost(place)):
                self._places.remove(place)
                ended = replace(ended, lost=lost)
            found.append(ended)
        return found

    def _why_lost(self, place: str) -> str | None:
        """Why the GPU at ``place`` does not work any more, in one line; None if it does, or if NVML never knew it."""
        from ttt_mlflow.telemetry.siblings import why_lost

        why = why_lost(self._gpus[place].uuid) if place in self.shares else None
        return f"GPU {place} does not answer any more ({why})" if why else None

    def _environment(self, place: str) -> Mapping[str, str]:
        """The environment of a cell's process: its GPU alone, this package, and nothing of the user's MLflow."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        paths = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        gpu = self._gpus.get(place)
        # with a single one, the user's own variable already names it: an instance of MIG has another kind of name
        chosen = {"CUDA_VISIBLE_DEVICES": gpu.uuid} if gpu and self._is_one_of_several else {}
        share = self.shares.get(place)
        count = share.threads if share else None
        threads = {THREADS: str(count), COMPILE_THREADS: str(min(count, MOST_COMPILE))} if count else {}
        return {**threads, **kept, **chosen, "PYTHONPATH": paths}

    @property
    def _is_one_of_several(self) -> bool:
        return len(visible_gpus()) > 1

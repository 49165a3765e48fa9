"""Runs a program in a separate process and leaves nothing running, regardless of how it ends."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil

GRACE_S = 10.0  # time for a program's processes to end by themselves, or after a request
ANSWERED_GRACE_S = 0.2  # the same for a program that only prints an answer and has nothing to lose
POLL_S = 0.02
RUN_PID = "TTT_MLFLOW_RUN_PID"  # environment variable of a profiled process: the pid of its run
RUN_POLL_S = 0.5
HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def started(command: Sequence[str], grace_s: float = GRACE_S, **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """Start ``command`` in its own session. The end of the block ends it and all processes that it started.

    ``options`` are those of :class:`subprocess.Popen`.
    """
    process = None
    try:
        with _signals_wait():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        yield process
    finally:
        if process:
            _end(process, grace_s)
            with process:  # closes its pipes
                pass


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Defer signals that have a handler to the end of the block. Its exception would lose the new process.

    A signal that is ignored, as SIGHUP under nohup, stays so: the new process inherits that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    heard: list[int] = []
    handled = [signum for signum in HEARD if callable(signal.getsignal(signum))]
    before = {signum: signal.signal(signum, lambda number, _: heard.append(number)) for signum in handled}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for number in heard:
            signal.raise_signal(number)


def output(command: Sequence[str], limit_s: float, **options: Any) -> "subprocess.CompletedProcess[str]":
    """The output of ``command``. Raises :class:`subprocess.TimeoutExpired` if it has not ended after ``limit_s``."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    with started(command, ANSWERED_GRACE_S, **pipes, **options) as process:
        stdout, stderr = process.communicate(timeout=limit_s)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def end_with_the_run() -> None:
    """End this process soon after the run of :data:`RUN_PID`, if set. A run that is killed cannot end its processes."""

    def wait_for_its_end(pid: int) -> None:
        with suppress(psutil.NoSuchProcess):
            run = psutil.Process(pid)
            while _is_running(run):
                time.sleep(RUN_POLL_S)
        os._exit(1)

    if RUN_PID in os.environ:
        threading.Thread(target=wait_for_its_end, args=(int(os.environ[RUN_PID]),), daemon=True).start()


@contextmanager
def recorded(on_gpu: bool) -> Iterator[None]:
    """Let Nsight Systems record the GPU's activity during the block."""
    import torch

    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
    yield
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def _end(process: "subprocess.Popen[Any]", grace_s: float) -> None:
    """Request running processes to end, then kill them. Children of a program that has ended get time to end first."""
    family: set[psutil.Process] = set()
    by_itself = [] if process.poll() is None else [None]
    for signum in (*by_itself, signal.SIGTERM, signal.SIGKILL):
        family = {one for one in family | _family(process) if _is_running(one)}
        for one in family:
            with suppress(psutil.NoSuchProcess):
                if signum:
                    one.send_signal(signum)
        deadline = time.monotonic() + grace_s
        while family and time.monotonic() < deadline:
            time.sleep(POLL_S)
            family = {one for one in family if _is_running(one)}


def _family(process: "subprocess.Popen[Any]") -> set[psutil.Process]:
    """The process, its descendants, and processes of its session whose parent has ended."""
    found: set[psutil.Process] = set()
    if process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(process.pid)
            found = {first, *first.children(recursive=True)}
    for pid in psutil.pids():
        with suppress(OSError, psutil.NoSuchProcess):
            if os.getsid(pid) == process.pid:
                found.add(psutil.Process(pid))
    return found


def _is_running(one: psutil.Process) -> bool:
    """Whether the process runs. A zombie has ended and does not count."""
    with suppress(psutil.NoSuchProcess):
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    return False

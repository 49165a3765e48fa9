"""Programs of their own: what they start ends with them, however they end."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ttt_mlflow.errors import Killed
from ttt_mlflow.profilers.process import output, started

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


@pytest.fixture
def below(tmp_path: Path) -> Iterator[Path]:
    """A file for the ids of what a program starts; what the tests find running is ended after all."""
    path = tmp_path / "below"
    path.touch()
    yield path
    for pid in map(int, path.read_text().split()):
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def shell(script: str, below: Path) -> list[str]:
    """A shell that starts ``sleep`` in the background, writes its id down, and goes on with ``script``."""
    return ["sh", "-c", f"sleep 600 & echo $! >> {below}; {script}"]


def running(below: Path) -> list[int]:
    def runs(pid: int) -> bool:
        return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE

    pids = list(map(int, below.read_text().split()))
    assert pids
    return [pid for pid in pids if runs(pid)]


def test_what_a_program_prints() -> None:
    done = output(["sh", "-c", "echo said; echo complained >&2; exit 3"], limit_s=60)
    assert (done.stdout, done.stderr, done.returncode) == ("said\n", "complained\n", 3)


def test_a_program_that_hangs_with_what_it_has_started(below: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        output(shell("wait", below), limit_s=0.5)
    assert running(below) == []


def test_what_an_ended_program_left_behind(below: Path) -> None:
    """As when nsys ends, and the process that it recorded goes on and holds the GPU's memory."""
    with started(shell("exit 3", below), grace_s=0.3) as process:
        assert process.wait(60) == 3
    assert running(below) == []


def test_what_ends_by_itself_is_not_asked_to(tmp_path: Path) -> None:
    done = tmp_path / "done"
    with started(["sh", "-c", f"(sleep 0.5; touch {done}) & exit 0"]) as process:
        process.wait(60)
    assert done.exists()


def test_a_signal_ends_all_of_it(below: Path) -> None:
    def interrupted() -> None:
        with started(shell("wait", below)):
            while not below.read_text():
                time.sleep(0.01)
            raise Killed(signal.SIGTERM)

    with pytest.raises(Killed):
        interrupted()
    assert running(below) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_amid_a_start_loses_nothing(
    signum: signal.Signals, below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the program runs and nobody has hold of it yet."""

    class Interrupted(subprocess.Popen[Any]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            while not below.read_text():
                time.sleep(0.01)
            signal.raise_signal(signum)

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signum, interrupt)  # a shell's background job ignores it
    try:
        monkeypatch.setattr(subprocess, "Popen", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            output(shell("wait", below), limit_s=60)
        assert running(below) == []
        assert signal.getsignal(signum) is interrupt
    finally:
        signal.signal(signum, before)


def test_what_is_ignored_stays_so_for_what_is_started() -> None:
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        show = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
        assert output([sys.executable, "-c", show], limit_s=60).stdout == "True\n"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_that_does_not_listen() -> None:
    with started([sys.executable, "-c", DEAF], grace_s=0.3, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "deaf\n"
    assert process.returncode == -signal.SIGKILL

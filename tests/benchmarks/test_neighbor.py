import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.neighbor import KINDS, ROOT, neighbor
from ttt_mlflow.errors import RunFailed

PATIENCE_S = 30


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_there_during_the_block_and_gone_after(kind: str) -> None:
    with neighbor(kind, "cpu") as pid:
        assert not gone(pid)
    assert gone(pid)


def test_it_is_not_what_this_process_started() -> None:
    """Telemetry counts a process and its descendants as the run's own."""
    with neighbor("hold", "cpu") as pid:
        assert pid not in [child.pid for child in psutil.Process().children(recursive=True)]


def test_it_is_gone_after_a_block_that_failed() -> None:
    pids: list[int] = []

    def fail() -> None:
        with neighbor("hold", "cpu") as pid:
            pids.append(pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gone(pids[0])


def test_it_ends_with_the_process_that_started_it() -> None:
    code = (
        "from benchmarks.neighbor import neighbor\n"
        "with neighbor('compute', 'cpu') as pid:\n"
        "    print(pid, flush=True)\n"
        "    input()\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.communicate()
    until = time.monotonic() + PATIENCE_S
    while not gone(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(pid)


def test_one_that_ends_early_is_no_neighbor() -> None:
    def lose_it() -> None:
        with neighbor("hold", "cpu") as pid:
            psutil.Process(pid).kill()
            while not gone(pid):
                time.sleep(0.01)

    with pytest.raises(RunFailed, match="ended before the run"):
        lose_it()


def test_one_that_cannot_work_says_why() -> None:
    def start() -> None:
        with neighbor("hold", "nonesuch"):
            pass

    with pytest.raises(RunFailed, match=r"did not start to work: RuntimeError.*nonesuch"):
        start()

"""A signal at any moment of a write leaves a whole record, with which the same process can go on."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT
from tests.record.signaled_writes import WRITES


@pytest.mark.parametrize(
    ("signum", "handled"),
    [
        pytest.param(signal.SIGINT, "yes", marks=pytest.mark.long),
        (signal.SIGTERM, "yes"),
        (signal.SIGINT, "no"),
    ],
)
def test_a_signal_at_any_moment(signum: int, handled: str, tmp_path: Path) -> None:
    """handled: as the command line does; else Python turns Ctrl-C into a KeyboardInterrupt."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.record.signaled_writes", tmp_path, str(int(signum)), handled],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,  # a lock that stays held would be waited for without an end
    )
    assert done.returncode == 0, done.stderr
    moments = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    assert moments.keys() == WRITES.keys()
    assert all(int(count) > 50 for count in moments.values()), "it came to no write"

"""A signal at any moment of a write leaves a whole record, with which the same process can go on."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests import catalog
from ttt_mlflow import record
from ttt_mlflow.app.signals import SignalHandler
from ttt_mlflow.errors import Killed
from ttt_mlflow.record.journal import Journal

CODE = str(Path(record.__file__).parent)
WRITES: dict[str, Callable[[Journal], object]] = {
    "a file that is new": lambda journal: journal.update_params({"a": 1}),
    "a file that was there": lambda journal: journal.update_metrics(catalog.metrics({"setup_s": 2.0})),
    "an artifact": lambda journal: journal.write_artifact(catalog.artifact("a/b.txt"), "new"),
    "the end": lambda journal: journal.set_status("ok"),
}
EVERY = 5  # of the moments, to take seconds; the first one tried depends on the round


class At:
    """Sends a signal to this process at the moment ``number``: before a line of the package that writes records."""

    def __init__(self, signum: int, number: int) -> None:
        self.signum, self.left = signum, number

    def __call__(self, frame: FrameType, event: str, argument: Any) -> "At | None":
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        if event in ("line", "return"):
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                signal.raise_signal(self.signum)
        return self


def is_over(what: Callable[[], object], signum: int, number: int) -> bool:
    """Do ``what`` with a signal at that moment. Whether it has fewer moments."""
    at, before = At(signum, number), sys.gettrace()
    sys.settrace(at)
    try:
        what()
    except (Killed, KeyboardInterrupt):
        pass
    finally:
        sys.settrace(before)
    return at.left > 0


@pytest.fixture(autouse=True)
def _keyboard() -> Iterator[None]:
    """As in a terminal. A shell lets a command in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(("signum", "handled"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_at_any_moment(write: str, signum: int, handled: bool, tmp_path: Path) -> None:
    """handled: as the command line does; else Python turns Ctrl-C into a KeyboardInterrupt."""
    number = 1 + (signum + handled) % EVERY
    over = False
    while not over:
        journal = Journal.create(tmp_path, {"batch": 1})
        journal.update_metrics(catalog.metrics({"setup_s": 1.0}))
        with SignalHandler() if handled else nullcontext():
            over = is_over(partial(WRITES[write], journal), signum, number)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if journal.status["status"] == "running":
            journal.set_status("killed")
        assert Journal(journal.path).faults() == [], f"moment {number}"
        assert list(journal.path.glob(".*.tmp")) == []
        number += EVERY
    assert number > 50, "it came to no write"

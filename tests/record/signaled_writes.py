"""Writes records with a signal at every few moments, in a process of its own: see test_signals.py.

A trace function that raises leaves its exception behind as what is being handled (CPython 3.11), which all later
exceptions of the process would name as their cause.

``python -m tests.record.signaled_writes FOLDER SIGNUM HANDLED``: handled ``yes`` as the command line does, else ``no``.
"""

import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from tests import catalog
from ttt_mlflow import errors, record
from ttt_mlflow.app.signals import SignalHandler
from ttt_mlflow.errors import Killed
from ttt_mlflow.record.journal import Journal

CODE = (str(Path(record.__file__).parent), errors.__file__)
WRITES: dict[str, Callable[[Journal], object]] = {
    "a file that is new": lambda journal: journal.update_params({"a": 1}),
    "a file that was there": lambda journal: journal.update_metrics(catalog.metrics({"setup_s": 2.0})),
    "an artifact": lambda journal: journal.write_artifact(catalog.artifact("a/b.txt"), "new"),
    "the end": lambda journal: journal.set_status("ok"),
}
WHOLE = "a file that is new"  # at each of its moments; of the others, to take seconds, at every fifth


class At:
    """Sends a signal to this process at the moment ``number``: before a line of what writes records.

    That is the package, and the block that no signal is to cut in two.
    """

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
    """Do ``what`` with a signal at that moment. Whether it has fewer moments. AssertionError if the signal is lost."""
    at, was_raised = At(signum, number), False
    sys.settrace(at)
    try:
        what()
    except (Killed, KeyboardInterrupt):
        was_raised = True
    finally:
        sys.settrace(None)
    assert was_raised == (at.left <= 0), f"moment {number}: the signal was lost"
    return at.left > 0


def moments_of(write: str, folder: Path, signum: int, handled: bool) -> int:
    """How many moments the write has, about. Raises AssertionError for a record that is not whole afterwards."""
    every = 1 if write == WHOLE else 5
    number = 1 + (signum + handled) % every
    over = False
    while not over:
        journal = Journal.create(folder, {"batch": 1})
        journal.update_metrics(catalog.metrics({"setup_s": 1.0}))
        with SignalHandler() if handled else nullcontext():
            over = is_over(partial(WRITES[write], journal), signum, number)
        assert errors.Uninterrupted._depth == 0, f"{write}, moment {number}: later signals would wait without an end"
        if journal.status["status"] == "running":
            journal.set_status("killed")
        assert Journal(journal.path).faults() == [], f"{write}, moment {number}"
        assert list(journal.path.glob(".*.tmp")) == [], f"{write}, moment {number}"
        number += every
    return number


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets a command in the background ignore Ctrl-C
    for name in WRITES:
        print(name, moments_of(name, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "yes"), sep=": ")

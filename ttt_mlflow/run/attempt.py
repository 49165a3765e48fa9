"""Runs steps that may fail, such as a profiling pass or a kernel. A failure does not affect the others."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ttt_mlflow.errors import Killed, RunFailed, TTTError, end_if_asked
from ttt_mlflow.plugins import BROKEN
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.room import NO_SPACE
from ttt_mlflow.run.out_of_memory import failure_of

COMPLETE = "the measurement before it is complete"
log = logging.getLogger(__name__)


def attempt(action: Callable[[], None], what: str, device: torch.device) -> TTTError | None:
    """Run ``action``. Returns why ``what`` failed on ``device``, or None. Raises Killed if a signal arrived."""
    try:
        action()
        end_if_asked()
        return None
    except BROKEN as error:
        # returned as a value, so that the caller decides where to report it
        log.error("%s failed\n%s", what, traceback.format_exc())
        return failure_of(error, what, device)


def attempt_pass(kind: str, record: Journal, device: torch.device, action: Callable[[], None]) -> str | None:
    """Run the profiling pass ``kind``. Returns why it failed, in one line with its name, or None."""

    def write() -> None:
        try:
            with after_the_measurement(f"during profile={kind}"):
                log.info("profile=%s begins", kind)
                action()
                end_if_asked()
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            room = f"free some space in {record.path.parent} and profile again"
            raise RunFailed(f"cannot be written ({error.strerror}); {room}") from error

    failure = attempt(write, "the profiling pass", device)
    if failure is None:
        return None
    prefix = f"profile={kind}: "
    return str(failure) if str(failure).startswith(prefix) else f"{prefix}{failure}"


@contextmanager
def after_the_measurement(during: str) -> Iterator[None]:
    """Add to a signal that ends the block what it interrupted, and that the measurement was complete."""
    try:
        yield
    except Killed as killed:
        killed.during = killed.during or f"{during}, after a complete measurement"
        raise

"""One profiling pass after a measurement: what goes wrong in it costs the measurement nothing."""

import errno
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ttt_mlflow.errors import Killed, TTTError, end_if_asked, one_line
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.run.out_of_memory import out_of_memory_message

ROOM, ROOM_BYTES = ".room", 256 << 10  # a record without its artifacts has a tenth of it
COMPLETE = "the measurement before it is complete"
log = logging.getLogger(__name__)


def attempt_pass(kind: str, journal: Journal, device: torch.device, action: Callable[[], None]) -> str | None:
    """Do it; why it failed, in one line with the name of the pass, or None. Raises what a signal asked for."""
    try:
        with after_the_measurement(f"during profile={kind}"), room_kept(journal):
            action()
            end_if_asked()
        return None
    except TTTError as error:
        message = str(error)
    except OSError as error:
        log.error("profile=%s failed\n%s", kind, traceback.format_exc())
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        room = f"make room in {journal.path.parent} and profile again"
        message = f"cannot be written ({error.strerror}); {room}" if full else one_line(error)
    except Exception as error:
        # recorded as the run's failure once the other passes are done
        log.error("profile=%s failed\n%s", kind, traceback.format_exc())
        message = out_of_memory_message(error, "the profiling pass", device) or one_line(error)
    prefix = f"profile={kind}: "
    return message if message.startswith(prefix) else prefix + message


@contextmanager
def after_the_measurement(during: str) -> Iterator[None]:
    """Let a signal that ends the block say what it cut short, and that it was not the measurement."""
    try:
        yield
    except Killed as killed:
        killed.during = killed.during or f"{during}, after a complete measurement"
        raise


@contextmanager
def room_kept(journal: Journal) -> Iterator[None]:
    """Keep room on the disk while a pass writes, which it gives back: the end of the record must fit after it."""
    room = journal.path / ROOM
    try:
        room.write_bytes(os.urandom(ROOM_BYTES))  # not zeros, which a file system may pack
        yield
    finally:
        room.unlink(missing_ok=True)

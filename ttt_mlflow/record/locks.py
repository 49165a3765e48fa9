"""Locks a file of a record for one process, or one thread, at a time.

Some file systems have no locks: Lustre without ``flock``, some of the network and of containers. There, a file beside
the locked one says which process holds it. It is removed by the next process if that one has ended.
"""

import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ttt_mlflow.record.process import has_ended, this_process
from ttt_mlflow.record.room import NO_SPACE

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
HELD = ".held"  # end of the name of the file that says who holds the lock
POLL_S = 0.01
UNSEEN_FOR_S = 86_400.0  # how old a lock of a process that is not visible from here must be to count as left
UNSIGNED_FOR_S = 60.0  # the same for one without a process, which was killed as it took it


@contextmanager
def locked(path: Path, descriptor: int, wait: bool = True) -> Iterator[None]:
    """Hold the lock of the open file ``path`` until the block ends. Whoever opened it closes it then, which unlocks.

    Raises BlockingIOError if another one has the lock, unless it is to ``wait``.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        with _held(path.with_name(f".{path.name.lstrip('.')}{HELD}"), wait):
            yield
    else:
        yield  # the lock ends with the descriptor


@contextmanager
def _held(path: Path, wait: bool) -> Iterator[None]:
    """Be the process that the file ``path`` names."""
    taken = False
    try:
        while not (taken := _take(path)):
            if not wait:
                raise BlockingIOError(errno.EWOULDBLOCK, "held by another process", str(path))
            time.sleep(POLL_S)
    except OSError as error:
        if error.errno not in NO_SPACE:  # what a full disk can still take is worth more than the order
            raise
    try:
        yield
    finally:
        if taken:
            path.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return _remove_if_left(path) and _take(path)
    try:
        with open(descriptor, "w") as file:
            json.dump(this_process(), file)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _remove_if_left(path: Path) -> bool:
    """Remove the file of a process that has ended. Of several that find it, one removes it, which is told."""
    if not _is_left(path):
        return False
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        if _is_left(aside):
            aside.unlink()
            return True
        os.rename(aside, path)  # another one was faster, and this is its lock
    return False


def _is_left(path: Path) -> bool:
    try:
        text, age_s = path.read_text(), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    try:
        ended = has_ended(json.loads(text))
    except (ValueError, KeyError, TypeError):
        return age_s > UNSIGNED_FOR_S
    return age_s > UNSEEN_FOR_S if ended is None else ended

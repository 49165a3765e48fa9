"""The memory that the processes of this host, or of this container, can have at most."""

from contextlib import suppress
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def most_memory_bytes() -> int:
    """Memory and swap space in bytes; the limit of the container instead of the memory, where it is lower."""
    limits = [psutil.virtual_memory().total]
    with suppress(OSError):  # no Linux
        limits += container_limits(Path("/proc/self/cgroup").read_text(), CGROUPS)
    return int(min(limits) + psutil.swap_memory().total)


def container_limits(memberships: str, root: Path) -> list[int]:
    """The limits in bytes of the control groups of a process, and of those above them.

    memberships: the content of ``/proc/self/cgroup``. root: where control groups are mounted, of version 1 or 2.
    """
    found = []
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # no such group in this namespace; the word "max"
                found.append(int((folder / name).read_text()))
            if folder == top:
                break
    return found

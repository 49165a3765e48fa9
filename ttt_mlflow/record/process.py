"""Which process writes a record, and whether it has ended."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Facts that identify this process uniquely, also after a restart of the machine."""
    return {
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "pid_namespace": _pid_namespace(),
        "pid": os.getpid(),
        "start_ticks": _start_ticks(os.getpid()),
    }


def has_ended(process: Mapping[str, Any]) -> bool | None:
    """Whether ``process`` of :func:`this_process` has ended; ``None`` if it is not visible from here."""
    if process["boot_id"] == _boot_id():
        if process["pid_namespace"] == _pid_namespace():
            return bool(_start_ticks(process["pid"]) != process["start_ticks"])
        return None
    return True if process["host"] == socket.gethostname() else None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _start_ticks(pid: int) -> int | None:
    """The start time of the process, in clock ticks since boot. It distinguishes processes that had the same pid.

    ``None`` if there is no such process, or if it is a zombie that its parent has not waited for.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # proc(5): the name is in parentheses and may contain anything
    return None if state == "Z" else int(fields[18])

"""What identifies a process for ever, and whether such a process has ended."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Facts that identify this process uniquely, also after a restart of the machine."""
    here = Host.here()
    return {
        "host": here.name,
        "boot_id": here.boot_id,
        "pid_namespace": here.pid_namespace,
        "pid": os.getpid(),
        "start_ticks": start_ticks(os.getpid()),
    }


def has_ended(process: Mapping[str, Any]) -> bool | None:
    """Whether ``process`` of :func:`this_process` has ended; ``None`` if it is not visible from here."""
    return Host.here().has_ended(process)


@dataclass(frozen=True)
class Host:
    """What can be known of processes from here.

    start_ticks: the start time of the process with a pid, in clock ticks since boot; ``None`` if there is none.
    """

    name: str
    boot_id: str
    pid_namespace: str
    start_ticks: Callable[[int], int | None]

    @classmethod
    def here(cls) -> "Host":
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(socket.gethostname(), boot_id, os.readlink("/proc/self/ns/pid"), start_ticks)

    def has_ended(self, process: Mapping[str, Any]) -> bool | None:
        if process["boot_id"] == self.boot_id:
            if process["pid_namespace"] == self.pid_namespace:
                return bool(self.start_ticks(process["pid"]) != process["start_ticks"])
            return None
        return True if process["host"] == self.name else None


def age_s() -> float:
    """Seconds since the start of this process, by the clock that counts them, which nobody sets."""
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def start_ticks(pid: int) -> int | None:
    """The start time of the process, in clock ticks since boot. It distinguishes processes that had the same pid.

    ``None`` if there is no such process, or if it is a zombie that its parent has not waited for.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *fields = stat.rpartition(b")")[2].split()  # proc(5): the name is in parentheses and may contain anything
    return None if state == b"Z" else int(fields[18])

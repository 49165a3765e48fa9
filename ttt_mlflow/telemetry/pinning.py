"""Pins this process to its GPU's share of the host, and says what was pinned."""

import ctypes
import os
import platform
from collections.abc import Callable

from ttt_mlflow.telemetry.host_shares import HostShare, ranges

# Linux's numbers of set_mempolicy, which the C library has no function for
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
# Memory from the node as long as it has some, then from another one. MPOL_BIND would end the run instead.
PREFERRED = 1
MASK_BITS = 1024
FIRST_TOUCH = "first touch"  # without a policy, memory comes from the node of the core that first writes to it

_facts: dict[str, object] = {}


def pin(share: HostShare) -> None:
    """Pin this process, and what it starts from now on, to ``share``. Call it before any thread is started.

    What the system refuses is left as it is, and :func:`pinned_facts` says so.
    """
    _facts.clear()
    if share.threads:
        _facts["host_threads"] = share.threads
    if not share.cores or share.node is None:
        _facts["pinned_cores"] = f"none{f': {share.why_not}' if share.why_not else ''}"
        return
    try:
        os.sched_setaffinity(0, share.cores)
    except OSError as error:
        _facts["pinned_cores"] = f"none: the system refuses it ({error.strerror})"
        return
    _facts["pinned_cores"] = ranges(share.cores)
    _facts["numa_node"] = share.node
    refused = prefer_memory_of(share.node)
    _facts["numa_memory"] = f"{FIRST_TOUCH} ({refused})" if refused else "preferred"


def pinned_facts() -> dict[str, object]:
    """What this process was pinned to, for the record; empty if :func:`pin` was not called.

    host_threads (of its libraries and compilers, if they were divided), pinned_cores (such as 0-15,64-79, or none and
    why), numa_node (of these cores), numa_memory (preferred: memory comes from this node as long as it has some; or
    first touch).
    """
    return dict(_facts)


def prefer_memory_of(node: int, call: Callable[..., int] | None = None) -> str | None:
    """Let this process take its memory from ``node``. Returns why the system refuses that, or None.

    Containers often may not set it. Its cores alone then decide, which is the same for memory that it writes first.
    """
    number = SET_MEMPOLICY.get(platform.machine())
    if number is None:
        return f"no system call known for {platform.machine()}"
    word = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (MASK_BITS // word))()
    mask[node // word] = 1 << node % word
    system = call or ctypes.CDLL(None, use_errno=True).syscall
    if system(ctypes.c_long(number), ctypes.c_long(PREFERRED), mask, ctypes.c_ulong(MASK_BITS)) == 0:
        return None
    return os.strerror(ctypes.get_errno())

"""PyTorch's record of GPU memory: which code allocates memory during a few steps, and what remains between them.

The allocator serves blocks from segments. A CUDA graph has its own segments, its pool. The pool reserves the memory
that the graph's kernels use between them, even when no tensor holds it.
"""

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

HISTORY_ENTRIES = 200_000  # maximum number of events; older events are dropped
COMMON_POOL = (0, 0)
GRAPH_POOL, ACTIVATIONS, OTHER, CACHED = "graph pool", "activations", "other", "cached"
NEITHER = ("torch/", "contextlib.py")  # frames that are less informative than their callers


@dataclass(frozen=True)
class AllocatorBytes:
    """The allocator's own sums: allocated by tensors, the peak during the pass, and reserved from the GPU."""

    allocated: int
    peak: int
    reserved: int


@dataclass(frozen=True)
class MemoryRow:
    """Bytes of one part: between two steps, at the peak of the pass, reserved from the GPU. None: not applicable."""

    part: str
    allocated_bytes: int | None
    peak_bytes: int | None
    reserved_bytes: int | None


@dataclass(frozen=True)
class MemoryEvent:
    """A block was allocated (``bytes`` above 0) or freed. ``held``: allocated bytes after the event."""

    us: float  # since the first event
    bytes: int
    held: int
    where: str  # the Python line that requested it


@dataclass(frozen=True)
class Recorded:
    """A pass: PyTorch's snapshot at its end with the history of the pass, and the allocator's own sums."""

    snapshot: dict[str, Any]
    allocator: AllocatorBytes
    device_index: int

    def pickled(self) -> bytes:
        """The pickle format that pytorch.org/memory_viz reads."""
        return pickle.dumps(self.snapshot)


def record(action: Callable[[], object], device: torch.device) -> Recorded:
    """Run ``action`` on a GPU while the allocator records its history."""
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.memory._record_memory_history(max_entries=HISTORY_ENTRIES, stacks="python", device=device)
    try:
        action()
        torch.cuda.synchronize(device)
        allocator = AllocatorBytes(
            torch.cuda.memory_allocated(device),
            torch.cuda.max_memory_allocated(device),
            torch.cuda.memory_reserved(device),
        )
        return Recorded(torch.cuda.memory._snapshot(), allocator, index)
    finally:
        torch.cuda.memory._record_memory_history(enabled=None, device=device)


def memory_table(recorded: Recorded, parts: Mapping[str, Sequence[Tensor]]) -> list[MemoryRow]:
    """One row for each part. ``parts``: the tensors that persist from step to step, by their kind.

    A block belongs to the part whose tensor is in it, else to the graph pool, else to ``other``.
    """
    owner = {tensor.untyped_storage().data_ptr(): part for part, tensors in parts.items() for tensor in tensors}
    return table_of(recorded, owner)


def table_of(recorded: Recorded, owner: Mapping[int, str]) -> list[MemoryRow]:
    """``owner``: the part of the storage that begins at an address."""
    allocated: dict[str, int] = dict.fromkeys([*owner.values(), GRAPH_POOL, OTHER], 0)
    pool_reserved = cached = 0
    for segment in recorded.snapshot["segments"]:
        if segment.get("device", recorded.device_index) != recorded.device_index:
            continue
        of_graph = tuple(segment.get("segment_pool_id", COMMON_POOL)) != COMMON_POOL
        for block in segment["blocks"]:
            if block["state"] == "active_allocated":
                allocated[owner.get(block["address"], GRAPH_POOL if of_graph else OTHER)] += block["size"]
            elif of_graph:
                pool_reserved += block["size"]
            else:
                cached += block["size"]
    above = recorded.allocator.peak - recorded.allocator.allocated
    rows = []
    for part, size in allocated.items():
        extra = pool_reserved if part == GRAPH_POOL else 0
        if size or extra:
            rows.append(MemoryRow(part, size, size, size + extra))
    rows.append(MemoryRow(ACTIVATIONS, None, above, None))  # they come from the cache and return to it
    rows.append(MemoryRow(CACHED, None, None, cached))
    return rows


def totals(rows: Iterable[MemoryRow]) -> AllocatorBytes:
    """The sums of the columns."""
    rows = list(rows)
    return AllocatorBytes(
        sum(row.allocated_bytes or 0 for row in rows),
        sum(row.peak_bytes or 0 for row in rows),
        sum(row.reserved_bytes or 0 for row in rows),
    )


def history(recorded: Recorded) -> list[MemoryEvent]:
    """The allocations and releases of the pass, in order."""
    traces = recorded.snapshot["device_traces"]
    entries = traces[recorded.device_index] if recorded.device_index < len(traces) else []
    # a block counts as freed from the request on, as in memory_allocated
    signs = {"alloc": 1, "free_requested": -1}
    changes = [(entry, signs[entry["action"]] * entry["size"]) for entry in entries if entry["action"] in signs]
    held = recorded.allocator.allocated - sum(change for _, change in changes)
    events = []
    for entry, change in changes:
        held += change
        us = entry.get("time_us", 0) - changes[0][0].get("time_us", 0)
        events.append(MemoryEvent(float(us), change, held, _where(entry.get("frames", []))))
    return events


def _where(frames: Sequence[Mapping[str, Any]]) -> str:
    """The innermost line outside PyTorch, without the folders of this host."""
    for frame in frames:
        path = PurePath(str(frame["filename"]))
        if not any(part in str(path) for part in NEITHER):
            return f"{'/'.join(path.parts[-2:])}:{frame['line']} {frame['name']}"
    return ""
